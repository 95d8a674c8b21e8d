"""Public fakes for tests of meshkit and of what is built on it.  Imported by no daemon."""
