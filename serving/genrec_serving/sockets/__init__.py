"""How processes of one server talk to each other."""
