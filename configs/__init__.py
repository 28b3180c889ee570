"""One YAML file per published run, found from an installed package too."""
