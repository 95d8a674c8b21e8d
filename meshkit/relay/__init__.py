"""
What one peer does for others that sleep, hide or move: mailboxes and tunnels.

A relay can stop serving; it cannot forge, nor read what is not for it.
"""
