"""Which agents there are, and which incarnations host them."""
