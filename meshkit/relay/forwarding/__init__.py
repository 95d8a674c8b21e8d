"""
Feeds that a relay keeps for others while their authors are away, or those who read them.

Which: those of the peers that are registered, and no others.  How long and how much: as its
operator says, by when messages came and never by what their authors say of time.  What has to go is
emptied and not deleted, so that nobody asks for it for ever: who does is told that it is gone.
"""
