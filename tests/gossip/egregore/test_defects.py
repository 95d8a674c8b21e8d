"""
The defects that the assessment of Egregore lists, and the tests by which each is absent.

S: security, C: correctness, U: usability, numbered as there.  What a defect is about a
thing that meshkit does not have is said instead of a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

ROOT: Final = Path(__file__).resolve().parents[3]

_NODE: Final = "gossip/egregore/test_node.py"
_SESSION: Final = "gossip/egregore/test_session.py"
_HANDSHAKE: Final = "shs/test_egregore.py"
_STREAM: Final = "shs/test_egregore_stream.py"

#: Defect -> what it was, and where it is shown to be absent: file and name of a test.
COVERED: Final[dict[str, tuple[str, list[tuple[str, str]]]]] = {
    "S1": (
        "one nonce for every frame (W0, W1)",
        [
            (_STREAM, "test_the_nonce_carries_and_never_repeats"),
            (_STREAM, "test_equal_messages_give_different_frames"),
            (_HANDSHAKE, "test_older_generations_are_refused_by_name"),
        ],
    ),
    "S2": (
        "both proofs under one key, so that a mirror is believed",
        [
            (
                _HANDSHAKE,
                "test_a_mirror_that_knows_no_network_string_is_refused_at_its_first_message",
            ),
            (_HANDSHAKE, "test_the_proofs_of_the_two_sides_cannot_be_exchanged"),
            (_HANDSHAKE, "test_our_own_identity_at_the_other_end"),
            (_HANDSHAKE, "test_a_key_of_small_order_is_refused"),
        ],
    ),
    "S3": (
        "anybody's key_rotation ends anybody's feed",
        [(_NODE, "test_a_stranger_cannot_end_a_feed_by_a_rotation")],
    ),
    "S6": (
        "no check of Host and Origin at the door",
        [
            ("web/test_security.py", "test_only_the_doors_own_names_are_hosts"),
            ("web/test_security.py", "test_only_the_door_itself_is_an_origin"),
        ],
    ),
    "S7": (
        "a private box whose sender is not the author",
        [("feed/test_private_box.py", "test_the_sender_has_to_be_the_author")],
    ),
    "S8": (
        "silent sockets hold all places",
        [
            ("shs/test_listener.py", "test_one_address_has_16_and_a_random_one_makes_room"),
            ("shs/test_channel.py", "test_a_silent_client_at_each_step"),
            (_NODE, "test_one_who_stops_in_the_middle"),
            (_NODE, "test_one_peer_has_a_few_connections"),
        ],
    ),
    "S9": (
        "a time in the future pins a message to the top",
        [("feed/test_search.py", "test_wrong_clocks_pin_nothing_to_the_top_of_any_list")],
    ),
    "S11": (
        "a message of any size, which can never be sent",
        [
            (_NODE, "test_a_message_without_measure_ends_no_feed"),
            ("feed/test_message.py", "test_tags_at_the_limit_are_taken_and_one_more_refused"),
        ],
    ),
    "C1": (
        "a live connection stops after 100 pushes",
        [
            (_NODE, "test_far_more_than_a_hundred_pushes_each_way"),
            (_SESSION, "test_until_the_credits_are_used_and_on_when_there_are_more"),
        ],
    ),
    "C2": (
        "an idle live connection dies after 15 seconds",
        [
            (_NODE, "test_an_hour_of_silence"),
            (_NODE, "test_a_connection_that_dies_is_made_again_soon"),
            (
                "slow/test_egregore_idle.py",
                "test_after_a_day_of_silence_both_push_on_the_same_connection",
            ),
        ],
    ),
    "C3": (
        "nothing is forwarded, or it goes back as well",
        [(_NODE, "test_received_messages_go_on_once_and_never_back")],
    ),
    "C4": (
        "a have that cannot be sent, from some hundreds of feeds on",
        [
            (_NODE, "test_more_feeds_than_one_exchange_names"),
            ("gossip/egregore/test_wire.py", "test_the_largest_have_fits_a_message"),
            ("gossip/egregore/test_memory.py", "test_round_after_round_everything_is_named"),
        ],
    ),
    "C5": (
        "the tail behind a refused or missing message goes again and again",
        [
            (_NODE, "test_what_is_behind_it_goes_once"),
            (_NODE, "test_behind_a_message_that_we_refuse_everything_comes_once"),
            (_NODE, "test_behind_a_message_that_nobody_has_likewise"),
        ],
    ),
    "C6": (
        "at 10,000 messages the two sides fall out of step",
        [(_SESSION, "test_at_the_limit_both_sides_stay_in_step")],
    ),
    "C7": (
        "floats are altered silently when they are published",
        [
            ("feed/test_acceptance.py", "test_what_is_published_here_is_never_one"),
            ("feed/test_floats.py", "test_what_is_published_is_read_back_unchanged"),
        ],
    ),
    "C9": (
        "two publishers at one moment, and half a write",
        [
            (
                "feed/test_part.py",
                "test_publishers_at_the_same_moment_get_different_numbers",
            )
        ],
    ),
    "U1": (
        "flags that are ignored",
        [("runtime/test_config.py", "test_flag_beats_environment_beats_file_beats_default")],
    ),
    "U3": (
        "a search in the keys of JSON",
        [("feed/test_search.py", "test_values_are_found_and_keys_are_not")],
    ),
}

#: Defects of things that are not here, or not in this room.
ELSEWHERE: Final = {
    "S4": "the relay of versions before 2.0 is not spoken to",
    "S5": "retention: of the part that deletes",
    "S10": "metrics: of the part that counts",
    "C8": "retention: of the part that deletes",
    "U2": "hooks: of the part that calls them",
    "U4": "events over SSE: of the door",
    "U5": "MCP: of the door",
    "U6": "a list of what they miss themselves",
}


class DefectTests(SynchronousTestCase):
    def test_every_test_that_is_named_exists(self) -> None:
        for defect, (what, tests) in COVERED.items():
            self.assertTrue(tests, f"{defect}: {what}")
            for file, name in tests:
                source = (ROOT / "tests" / file).read_text("utf-8")
                self.assertIn(f"def {name}(", source, f"{defect}: {what}")

    def test_no_defect_is_left_out(self) -> None:
        known = [f"S{n}" for n in range(1, 12)]
        known += [f"C{n}" for n in range(1, 10)] + [f"U{n}" for n in range(1, 7)]
        self.assertEqual(sorted([*COVERED, *ELSEWHERE]), sorted(known))
