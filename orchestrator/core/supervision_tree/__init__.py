"""The rule of the supervision tree, with the semantics of OTP's supervisor. Standard library only."""
