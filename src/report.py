"""All finished runs in one table, beside the papers' numbers.

python -m src.report                                  everything below outputs/
python -m src.report runs=outputs/sweeps baseline=late_fusion
python -m src.report runs=[outputs/st_resnet_hmdb51,outputs/two_stream_*] output=table

Prints the table, writes it with details as report.html, and every run as lines of report.csv.
"""

from omegaconf import DictConfig

from src.cli import command
from src.utils.values import NAMES, NULL, PATH, TEXT, integer


@command("report", runs=NAMES, output=PATH, details=integer(0), baseline=TEXT | NULL)
def main(cfg: DictConfig) -> None:
    """Compose, collect, print and write."""
    from src.reporting.report import make_report

    runs = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    make_report(runs, cfg.output, cfg.baseline, most_details=cfg.details)
    print(f"written: report.html and report.csv in {cfg.output}")


if __name__ == "__main__":
    main()
