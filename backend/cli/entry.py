"""What the installed script `eyepiece` calls: quick to load, so that Ctrl-C in the first second ends without a traceback."""


def main() -> None:
    """Run the command line."""
    try:
        from backend.cli import main as commands  # takes a second, in which Ctrl-C must be quiet

        commands.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
