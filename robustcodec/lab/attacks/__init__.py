"""Attacks on codecs: a method searches, within a budget, what a threat model wants; a referee trusts none of them."""
