"""One cluster over several machines, each made of namespaces."""
