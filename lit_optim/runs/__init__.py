"""One run and its directory: built, started or resumed, trained, recorded."""
