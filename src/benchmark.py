"""Time this project's parts on this machine, against named baselines in the same run.

python -m src.benchmark target=loader clips=<folder of videos>
python -m src.benchmark target=[loader,decode] output=now.json compare=before.json
"""

from omegaconf import DictConfig

from src.cli import command


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Compose, measure, print."""
    from src.benchmarks.run import run_benchmarks

    run_benchmarks(cfg)


if __name__ == "__main__":
    main()
