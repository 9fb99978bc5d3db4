"""One thin module a verb: `add_arguments(parser)` and `main(arguments)`; heavy imports wait until a verb runs."""
