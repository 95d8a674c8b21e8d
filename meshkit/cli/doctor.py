"""C{meshkit doctor}."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from typing import Final

import click

from meshkit.audit.doctor import AuditReport
from meshkit.audit.doctor import examine as examine_audits
from meshkit.audit.standing import StandingConfig
from meshkit.cli.backup import all_migrations, held
from meshkit.cli.door import open_folder
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import MeshkitError, NotFound
from meshkit.feed.doctor import Report, examine
from meshkit.runtime.container import DiskFile, check_not_newer, migrate
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import stored_public
from meshkit.services.node import DATABASE


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended, and say what was.")
@json_option
@click.pass_obj
def doctor(flag: str | None, repair: bool, as_json: bool) -> None:
    """
    Examine everything that is stored, while the node does not run.

    Every message is read and its signature checked: some 9,000 of them in a second. What
    is made from the messages (links, tags, the index of words) is compared with them, and
    --repair makes it anew. A damaged message is set aside, so that it is fetched again.
    What audits have found of files that others keep is told, too; the node itself mends that.
    Exit code 1 says that something is not as it should be. Like a start of the node, this
    brings the tables of an older version to this one first.
    """
    folder = open_folder(flag)
    path = folder.file(DATABASE)
    if not os.path.lexists(path):
        raise NotFound(f"there is no database in {folder.path}: a node makes one when it starts")
    migrations = all_migrations()
    with held(folder):
        backing = DiskFile(path)
        check_not_newer(backing.inspect(), migrations, path)
        migrate(backing, migrations)
        with closing(backing.open_writer()) as connection:
            now_ns = time.time_ns()
            report = examine(connection, repair=repair, own=_own(folder), now_ns=now_ns)
            audits = AuditReport({}, (), {})
            if _AUDITS in migrations:
                audits = examine_audits(connection, now_ns // 10**9, StandingConfig())
    if as_json:
        print_json(
            {
                "database": path,
                "messages": report.messages,
                "feeds": report.feeds,
                "sound": not report.counts,
                "repaired": report.counts.total() - report.left,
                "left": report.left,
                "forks": report.forks,
                "forked": [
                    {"author": author, "sequence": sequence} for author, sequence in report.forked
                ],
                "counts": dict(sorted(report.counts.items())),
                "findings": [
                    {"kind": found.kind, "subject": found.subject, "repair": found.repair}
                    for found in report.findings
                ],
                "objects": dict(audits.objects),
                "degraded": [
                    {
                        "object": each.content_id.hex(),
                        "good": each.good,
                        "required": each.required,
                        "total": each.total,
                        "code": each.code,
                        "reason": each.reason,
                    }
                    for each in audits.degraded
                ],
                "refused_peers": dict(audits.refused),
            }
        )
    else:
        _print(report, path, repair)
        _print_audits(audits)
    if report.left or audits.lost:
        sys.exit(1)


#: The part whose tables say it.
_AUDITS: Final = "audit"


def _own(folder: DataFolder) -> bytes | None:
    try:
        return stored_public(folder).raw
    except (FileNotFoundError, MeshkitError):
        # Then it is not known whose feed is this node's.
        return None


def _print(report: Report, path: str, repair: bool) -> None:
    for found in report.findings:
        line(found.subject)
        if found.repair is None:
            line("  cannot be mended here: restore a backup, or fetch everything anew")
        else:
            line(f"  {'done' if repair else 'to be mended with --repair'}: {found.repair}")
    told = len(report.findings)
    if report.counts.total() > told:
        line(f"... and {report.counts.total() - told} more")
    for author, sequence in report.forked:
        line(
            f"The feed of {author} ends before number {sequence}: two messages with that number "
            f"were signed with its key. The proof is kept."
        )
    if report.forks > len(report.forked):
        line(f"... and {report.forks - len(report.forked)} more feeds are forked")
    line(f"{path}: {report.messages} messages of {report.feeds} authors")
    if not report.counts:
        line("Everything is as it should be.")
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.counts.items()))
        line(f"Found: {kinds}. {'Left' if repair else 'To do'}: {report.left}.")


def _print_audits(audits: AuditReport) -> None:
    for each in audits.degraded:
        line(
            f"Object {each.content_id.hex()[:16]}: {each.good} of {each.total} shares are good, "
            f"and {each.required} suffice ({each.code}: {each.reason})"
        )
    for peer, why in audits.refused.items():
        line(f"{peer} is given no more shares: {why}")
    if audits.objects:
        counts = ", ".join(f"{count} {code}" for code, count in audits.objects.items())
        line(f"Objects that others keep, by the last audits: {counts}")
