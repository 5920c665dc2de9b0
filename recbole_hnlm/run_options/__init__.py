"""What one run does, parsed and checked from the flat configuration."""

from recbole_hnlm.run_options.run import (
    RunOptions,
    base_sampler_of,
    cache_directory,
    describe_options,
    parse_given,
    parse_run,
)

__all__ = ["RunOptions", "base_sampler_of", "cache_directory", "describe_options", "parse_given", "parse_run"]
