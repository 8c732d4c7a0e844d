"""Studies beside the pipeline: a question each, answered by a script that goes on where it was stopped."""

import stages  # noqa: F401 (torch computes with the same instructions everywhere)
