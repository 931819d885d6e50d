"""TGI's body, checked in TGI's order and in its words."""
