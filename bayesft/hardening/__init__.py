"""The library's front door: measure, compare and harden anyone's network, in anyone's loop, with any fault."""
