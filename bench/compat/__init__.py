"""Other people's tools behind our own contracts; each is imported only when it is used."""
