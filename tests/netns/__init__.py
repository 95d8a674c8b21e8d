"""Real nodes on hosts of their own, with routers between them: see L{tests.netns.hosts}."""
