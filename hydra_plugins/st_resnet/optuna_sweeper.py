"""A search by Optuna as Hydra's sweeper: each trial is a job, and bad ones end early.

    python -m src.train sweep=search experiment=st_resnet_hmdb51

A search that was stopped continues: finished trials count, and those that were under way are run
again with the same values, in the same directories.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from src.experiment.config import cannot_matter
from src.training.search import ARGUMENTS, PRUNED, PRUNER, choose, open_study, values_of
from src.utils.commands import in_hydra
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
LOG = "log"  # the tag of an interval in which factors count, not differences


class OptunaSweeper(Sweeper):
    """What `hydra/sweeper=optuna` chooses.

    Args:
        journal: file with the trials.
        n_trials: how many to finish in all, pruned ones included.
        n_jobs: how many jobs are launched at once.
        max_failures: how many may fail in one call, by a loss that is not finite for example.
        direction: of the jobs' result, "maximize" or "minimize".
        seed: of the sampler, if it draws.
        sampler: class of Optuna's.
        sampler_options: its arguments; None are Optuna's own.
        pruner: likewise; it sees the clip-level validation accuracy after each epoch.
        pruner_options: likewise.
        params: what is searched, by key, in Hydra's grammar; the command line may add and replace.
    """

    def __init__(
        self,
        journal: str,
        n_trials: int,
        n_jobs: int | None,
        max_failures: int,
        direction: str,
        seed: int,
        sampler: str,
        pruner: str,
        sampler_options: DictConfig | None = None,
        pruner_options: DictConfig | None = None,
        params: DictConfig | None = None,
    ) -> None:
        self.journal, self.n_trials, self.n_jobs = Path(journal), n_trials, n_jobs or 1
        self.direction, self.params, self.max_failures = direction, dict(params or {}), max_failures
        self.seed = seed
        self.sampler = (sampler, _plain(sampler_options))
        self.pruner = (pruner, _plain(pruner_options))
        self.launcher: Launcher | None = None
        self.exhausted = False

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what launches jobs.

        Raises:
            UserError: this process is one of several, which would each make its own search; or
                the test list would be searched on.
        """
        check_alone(config)
        check_part(config)
        self.config_loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> float:
        """Run trials until there are enough.

        Returns:
            The best value; NaN if every trial was pruned.

        Raises:
            UserError: there is nothing to search, or the file holds another search.
        """
        parser = OverridesParser.create(config_loader=self.config_loader)
        given = [f"{key!s}={value!s}" for key, value in self.params.items()] + arguments
        overrides = {one.get_key_element(): one for one in parser.parse_overrides(given)}
        sweeps = {key: one for key, one in overrides.items() if one.is_sweep_override()}
        space = {key: distribution(one) for key, one in sweeps.items()}
        if not space:
            raise UserError(
                "nothing is searched: add sweep=search, or "
                "stages.joint.optimizer.lr='interval(1e-4,1e-2)'"
            )
        fixed = [
            f"{key}={one.get_value_element_as_str()}"
            for key, one in overrides.items()
            if key not in space
        ]
        study = self._open(fixed)
        self._run_again(study)
        while (left := self.n_trials - _finished(study)) > 0 and not self.exhausted:
            self._run(study, space, fixed, min(left, self.n_jobs))
        return self._save_best(study)

    def _open(self, fixed: Sequence[str]) -> "optuna.Study":
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        study = open_study(self.journal, self.direction)
        # What samplers call that have seen everything; Optuna's own works in its own loop alone.
        setattr(study, "stop", self._stop)  # noqa: B010
        import optuna

        name, options = self.sampler
        if "seed" in signature(getattr(optuna.samplers, name, dict)).parameters:
            # a search that continues draws other numbers
            options = {"seed": self.seed + len(study.trials)} | options
        study.sampler = choose(optuna.samplers, name, options, "hydra.sweeper.sampler")
        study.pruner = choose(optuna.pruners, *self.pruner, "hydra.sweeper.pruner")
        known = study.user_attrs.get(ARGUMENTS, list(fixed))
        if self._essential(known) != self._essential(fixed):
            raise UserError(
                f"{self.journal} is a search with other arguments ({' '.join(known)}): give "
                "another hydra.sweeper.journal, or the same arguments to continue"
            )
        study.set_user_attr(ARGUMENTS, list(fixed))
        study.set_user_attr(PRUNER, self.pruner)
        return study

    def _essential(self, arguments: Sequence[str]) -> set[str]:
        return {one for one in arguments if not cannot_matter(one.partition("=")[0])}

    def _stop(self) -> None:
        self.exhausted = True

    def _run_again(self, study: "optuna.Study") -> None:
        """Take up the trials that were under way when the search was stopped."""
        from optuna.trial import TrialState

        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params, skip_if_exists=False)

    def _run(
        self,
        study: "optuna.Study",
        space: Mapping[str, "optuna.distributions.BaseDistribution"],
        fixed: Sequence[str],
        count: int,
    ) -> None:
        try:
            trials = [study.ask(dict(space)) for _ in range(count)]
        except ValueError as error:  # of distributions that are not those of earlier trials
            raise UserError(
                f"{self.journal} is a search in another space ({error}): give another "
                "hydra.sweeper.journal"
            ) from error
        jobs = [
            [
                *fixed,
                *values_of(trial.params),
                f"trial={{journal:{in_hydra(str(self.journal))},number:{trial.number}}}",
            ]
            for trial in trials
        ]
        assert self.launcher is not None
        returns = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        errors = [_tell(study, trial, job) for trial, job in zip(trials, returns, strict=True)]
        for trial, failed in zip(trials, errors, strict=True):
            if failed is None:
                continue
            mistake = find_mistake(failed)
            self.max_failures -= 1
            if mistake is None or self.max_failures < 0:
                raise failed
            log.warning("trial %d failed: %s", trial.number, mistake)

    def _save_best(self, study: "optuna.Study") -> float:
        from optuna.trial import TrialState

        if not study.get_trials(states=(TrialState.COMPLETE,)):
            log.warning("all trials were pruned: there is no best one")
            return math.nan
        best = study.best_trial
        content = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        file = self.journal.with_name("optimization_results.yaml")  # as Hydra's own sweepers do
        OmegaConf.save(OmegaConf.create(content), file)
        return study.best_value


def check_alone(config: DictConfig) -> None:
    """Refuse a search in each of many processes: they would draw other values.

    Args:
        config: of the search, Hydra's own part included.

    Raises:
        UserError: somebody else has started this process for one job, or will start others.
    """
    from src.training.group import Group  # it brings torch along

    queued = "submitit" in config.hydra.launcher["_target_"]
    nodes = OmegaConf.select(config, "trainer.num_nodes", default=1)
    if Group.from_environment() is not None or (nodes != 1 and not queued):
        raise UserError(
            "a search is one process, which starts those of its jobs: call it without torchrun and "
            "srun, and for jobs on several machines with hydra/launcher=slurm"
        )


def check_part(config: DictConfig) -> None:
    """Refuse a search whose value would be the accuracy on the test list."""
    if OmegaConf.select(config, "data.test.part") != "val":
        raise UserError(
            "a search would choose by the test list: give data.val_fraction=0.2 "
            "data.test.part=val, as sweep=search does"
        )


def _tell(study: "optuna.Study", trial: "optuna.Trial", job: JobReturn) -> Exception | None:
    """Tell the study how a job ended; what it raised, if it did."""
    from optuna.trial import TrialState

    try:
        value = float(job.return_value)
    except Exception as error:
        study.tell(trial, state=TrialState.FAIL)
        return error
    if PRUNED in study.trials[trial.number].user_attrs:  # by the job's own process
        study.tell(trial, state=TrialState.PRUNED)
    elif math.isnan(value):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)
    return None


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """What Optuna is to draw from: an interval(...), or one of those of a choice or range(...)."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep: Any = override.value()
    factors = LOG in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=factors)
        return FloatDistribution(float(sweep.start or 0), float(sweep.end or 0), log=factors)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _finished(study: "optuna.Study") -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _plain(node: DictConfig | None) -> dict[str, Any]:
    plain: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    return dict(plain)
