"""All finished runs in one table, beside the papers' numbers.

python -m src.report                                  everything below outputs/
python -m src.report runs=outputs/sweeps baseline="late fusion"
python -m src.report runs=[outputs/st_resnet_hmdb51,outputs/two_stream_*] output=table

Prints the table and writes it as report.md and report.html, and every run as a line of report.csv.
"""

from omegaconf import DictConfig

from src.cli import command
from src.values import NAMES, NULL, PATH, TEXT, whole


@command("report", runs=NAMES, output=PATH, details=whole(0), baseline=TEXT | NULL)
def main(cfg: DictConfig) -> None:
    """Compose, collect, print and write."""
    # Imported here: --help and mistakes in the config do not wait for torch.
    from src.reporting.report import make_report

    runs = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    make_report(runs, cfg.output, cfg.baseline, most_details=cfg.details)
    print(f"written: report.md, report.html and report.csv in {cfg.output}")


if __name__ == "__main__":
    main()
