"""One folder for each backend; the factory loads the one that is used."""
