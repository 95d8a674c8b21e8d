"""
What a daemon runs on: settings, threads, the database, files, the data folder, the
registry of parts, the book of peers and the event bus.
"""
