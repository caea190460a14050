from steel_batch.answers.open_store import OpenStore as OpenStore
from steel_batch.api.calls import DatePlan as DatePlan
from steel_batch.api.calls import open_store as open_store
from steel_batch.api.calls import plan as plan
from steel_batch.api.calls import score as score
from steel_batch.config import ScoreConfig as ScoreConfig
from steel_batch.errors import SteelBatchError as SteelBatchError
from steel_batch.runs.record import RunResult as RunResult

__all__: list[str]
__version__: str
