"""Here so that the tests below find `builders`: pytest puts the folder of each conftest on the path."""
