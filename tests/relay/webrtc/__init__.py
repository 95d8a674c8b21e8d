"""Tests of L{meshkit.relay.webrtc}."""
