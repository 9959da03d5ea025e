"""The folder that `beamscribe caption` writes to, as other commands are given it."""

import os


def checked(uri: str) -> str:
    """The folder's absolute path or URI, without a slash at its end.

    Args:
      uri: what the user typed.

    Raises:
      UserError: there is no such folder, or no run has written to it.
    """
    from beamscribe.jobs.options import input_options
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import stores
    from beamscribe.pipelines.output import rows

    output = input_options.absolute(uri)
    try:
        if rows.committed_files(output) or any(stores.within(output, "runs", "*", "config.json")):
            return output
    except ValueError as error:
        # No filesystem for the scheme.
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"can't read {uri}: {error.strerror or error}") from None
    if stores.is_local(output) and not os.path.isdir(output):
        raise UserError(f"no folder {output}; give the --output folder of `beamscribe caption`")
    raise UserError(f"{output} holds no captions; give the --output folder of `beamscribe caption`")
