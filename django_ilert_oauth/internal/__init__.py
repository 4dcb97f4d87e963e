"""What the app is made of and a site does not import."""
