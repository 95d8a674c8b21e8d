"""
What happens outside when a message is stored here: commands that are run, and webhooks that
are called.

C{signing}, C{retries}, C{egress} and C{config} are pure.  C{courier} reads the store and
decides what is delivered when; C{command} and C{webhook} deliver.
"""
