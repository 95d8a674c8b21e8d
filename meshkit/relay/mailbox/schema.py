"""
The tables of mailboxes, in the databases of a relay and of a node.  Pure.

Script I{i} takes them from version I{i} to I{i+1}.  One that has been released is never changed:
what comes later is added at the end.
"""

from __future__ import annotations

from typing import Final

#: Of a relay (L{meshkit.relay.mailbox.store}).  All times are seconds of Unix time.
_RELAY: Final = """
    -- Mailboxes.  until: when it is closed, unless its owner comes again; messages and bytes
    -- count what waits in it.
    CREATE TABLE mailboxes (
        recipient BLOB PRIMARY KEY NOT NULL,
        prekey BLOB NOT NULL,
        expires INTEGER NOT NULL,
        until INTEGER NOT NULL,
        messages INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX mailboxes_by_end ON mailboxes (until);

    -- Messages that wait.  number is never given twice.
    CREATE TABLE mailbox_messages (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        recipient BLOB NOT NULL REFERENCES mailboxes (recipient),
        sender BLOB NOT NULL,
        digest BLOB NOT NULL,
        taken INTEGER NOT NULL,
        until INTEGER NOT NULL,
        size INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        UNIQUE (recipient, digest)
    ) STRICT;
    CREATE INDEX mailbox_messages_in_order ON mailbox_messages (recipient, number, size, until);
    CREATE INDEX mailbox_messages_of_sender ON mailbox_messages (sender, recipient);
    CREATE INDEX mailbox_messages_by_end ON mailbox_messages (until);

    -- Those that were fetched, for senders who have not heard that they were taken.
    CREATE TABLE mailbox_fetched (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        recipient BLOB NOT NULL,
        digest BLOB NOT NULL,
        size INTEGER NOT NULL,
        taken INTEGER NOT NULL,
        until INTEGER NOT NULL,
        forgotten INTEGER NOT NULL,
        UNIQUE (recipient, digest)
    ) STRICT;
    CREATE INDEX mailbox_fetched_by_end ON mailbox_fetched (forgotten);

    -- What all mailboxes have together.
    CREATE TABLE mailbox_totals (
        one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
        mailboxes INTEGER NOT NULL,
        messages INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO mailbox_totals VALUES (1, 0, 0, 0);

    CREATE TRIGGER mailbox_opened AFTER INSERT ON mailboxes BEGIN
        UPDATE mailbox_totals SET mailboxes = mailboxes + 1;
    END;
    CREATE TRIGGER mailbox_closed AFTER DELETE ON mailboxes BEGIN
        UPDATE mailbox_totals SET mailboxes = mailboxes - 1;
    END;
    CREATE TRIGGER mailbox_message_came AFTER INSERT ON mailbox_messages BEGIN
        UPDATE mailboxes SET messages = messages + 1, bytes = bytes + NEW.size
            WHERE recipient = NEW.recipient;
        UPDATE mailbox_totals SET messages = messages + 1, bytes = bytes + NEW.size;
    END;
    CREATE TRIGGER mailbox_message_went AFTER DELETE ON mailbox_messages BEGIN
        UPDATE mailboxes SET messages = messages - 1, bytes = bytes - OLD.size
            WHERE recipient = OLD.recipient;
        UPDATE mailbox_totals SET messages = messages - 1, bytes = bytes - OLD.size;
    END;
    """

#: Of a relay: what came from one host, so that none takes all there is.
_ORIGINS: Final = """
    -- The IPv4 address or /64 from which a mailbox was opened, or a message was left; empty for
    -- those of before this script.
    ALTER TABLE mailboxes ADD COLUMN origin TEXT NOT NULL DEFAULT '';
    ALTER TABLE mailbox_messages ADD COLUMN origin TEXT NOT NULL DEFAULT '';

    CREATE TABLE mailbox_origins (
        origin TEXT PRIMARY KEY NOT NULL,
        mailboxes INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO mailbox_origins
        SELECT '', count(*), coalesce(sum(bytes), 0) FROM mailboxes HAVING count(*) > 0;

    CREATE TRIGGER mailbox_opened_from AFTER INSERT ON mailboxes BEGIN
        INSERT INTO mailbox_origins VALUES (NEW.origin, 1, 0)
            ON CONFLICT (origin) DO UPDATE SET mailboxes = mailboxes + 1;
    END;
    CREATE TRIGGER mailbox_closed_from AFTER DELETE ON mailboxes BEGIN
        UPDATE mailbox_origins SET mailboxes = mailboxes - 1 WHERE origin = OLD.origin;
        DELETE FROM mailbox_origins
            WHERE origin = OLD.origin AND mailboxes = 0 AND bytes = 0;
    END;
    CREATE TRIGGER mailbox_message_came_from AFTER INSERT ON mailbox_messages BEGIN
        INSERT INTO mailbox_origins VALUES (NEW.origin, 0, NEW.size)
            ON CONFLICT (origin) DO UPDATE SET bytes = bytes + NEW.size;
    END;
    CREATE TRIGGER mailbox_message_went_from AFTER DELETE ON mailbox_messages BEGIN
        UPDATE mailbox_origins SET bytes = bytes - OLD.size WHERE origin = OLD.origin;
        DELETE FROM mailbox_origins
            WHERE origin = OLD.origin AND mailboxes = 0 AND bytes = 0;
    END;
    """

#: Of a recipient (L{meshkit.relay.mailbox.inbox}).
_INBOX: Final = """
    -- Messages that were taken, so that none is taken twice.
    CREATE TABLE mailbox_seen (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        sender BLOB NOT NULL,
        id BLOB NOT NULL,
        until INTEGER NOT NULL,
        UNIQUE (sender, id)
    ) STRICT;
    CREATE INDEX mailbox_seen_by_end ON mailbox_seen (until);
    CREATE INDEX mailbox_seen_of_sender ON mailbox_seen (sender, number);
    """

#: Of a recipient: what it has taken (L{meshkit.relay.mailbox.letters}).
_LETTERS: Final = """
    -- Messages that were taken and not removed since.  taken: when, by our clock; relay: which
    -- one had it; read: was it looked at?
    CREATE TABLE mailbox_letters (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        sender BLOB NOT NULL,
        id BLOB NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        taken INTEGER NOT NULL,
        relay BLOB NOT NULL,
        forward_secret INTEGER NOT NULL,
        read INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX mailbox_letters_unread ON mailbox_letters (number) WHERE read = 0;

    CREATE TABLE mailbox_letters_totals (
        one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
        letters INTEGER NOT NULL,
        unread INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO mailbox_letters_totals VALUES (1, 0, 0, 0);
    CREATE TRIGGER mailbox_letter_came AFTER INSERT ON mailbox_letters BEGIN
        UPDATE mailbox_letters_totals
            SET letters = letters + 1, unread = unread + 1, bytes = bytes + NEW.size;
    END;
    CREATE TRIGGER mailbox_letter_read AFTER UPDATE OF read ON mailbox_letters BEGIN
        UPDATE mailbox_letters_totals SET unread = unread + OLD.read - NEW.read;
    END;
    CREATE TRIGGER mailbox_letter_went AFTER DELETE ON mailbox_letters BEGIN
        UPDATE mailbox_letters_totals
            SET letters = letters - 1, unread = unread - (1 - OLD.read), bytes = bytes - OLD.size;
    END;
    """

#: Of a sender (L{meshkit.relay.mailbox.outbox}).
_OUTBOX: Final = """
    -- Messages that were handed over to be sent.  body is there until it is sealed, sealed until
    -- a relay has it, receipt from then on.  state: 0 on its way, 1 at a relay, 2 given up.
    -- hint: where its sender wants it left, as [address, blind]; key and asked: what it was asked
    -- for with.
    CREATE TABLE mailbox_outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        recipient BLOB NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        size INTEGER NOT NULL,
        hint BLOB,
        state INTEGER NOT NULL DEFAULT 0,
        body BLOB,
        sealed BLOB,
        forward_secret INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        relay BLOB,
        taken INTEGER,
        until INTEGER,
        receipt BLOB,
        key BLOB UNIQUE,
        asked BLOB
    ) STRICT;
    CREATE INDEX mailbox_outbox_waiting ON mailbox_outbox (recipient, number) WHERE state = 0;
    CREATE INDEX mailbox_outbox_ended ON mailbox_outbox (number) WHERE state > 0;

    -- The latest prekey that is known of others, and when it was heard of.
    CREATE TABLE mailbox_known (
        owner BLOB PRIMARY KEY NOT NULL,
        prekey BLOB NOT NULL,
        heard INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX mailbox_known_by_age ON mailbox_known (heard);
    """

#: Of a sender: the same message at a further relay.
_COPIES: Final = """
    -- since: when, by our clock, the first relay had it; sealed stays from then on until enough
    -- have.  copies: what these have signed, as [[relay, until, receipt]].
    ALTER TABLE mailbox_outbox ADD COLUMN since INTEGER;
    ALTER TABLE mailbox_outbox ADD COLUMN copies BLOB;
    CREATE INDEX mailbox_outbox_due ON mailbox_outbox (recipient, number)
        WHERE body IS NOT NULL OR sealed IS NOT NULL;
    """

#: Of a recipient: who had what was taken.
_GIVEN: Final = """
    -- Which relays have given a message, and when each did first, by our clock.
    CREATE TABLE mailbox_given (
        seen INTEGER NOT NULL,
        relay BLOB NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (seen, relay)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER mailbox_seen_forgotten AFTER DELETE ON mailbox_seen BEGIN
        DELETE FROM mailbox_given WHERE seen = OLD.number;
    END;

    -- Since when there is a mailbox at each relay.
    CREATE TABLE mailbox_stations (
        relay BLOB PRIMARY KEY NOT NULL,
        since INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """

#: Of a relay, for the part C{mailboxes}: one script for each piece; add yours at the end.
RELAY_MIGRATIONS: Final = (_RELAY, _ORIGINS)
#: Of a node, for the part C{mailbox}; likewise.
MIGRATIONS: Final = (_INBOX, _LETTERS, _OUTBOX, _COPIES, _GIVEN)
