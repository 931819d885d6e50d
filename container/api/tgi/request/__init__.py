"""TGI's body, checked in TGI's order and with TGI's messages."""
