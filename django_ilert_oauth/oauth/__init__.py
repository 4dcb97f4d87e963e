"""ilert's OAuth endpoints on the wire. No Django."""
