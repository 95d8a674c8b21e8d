"""C{twistd} and C{twist} commands: options in, a service out, no logic of their own."""
