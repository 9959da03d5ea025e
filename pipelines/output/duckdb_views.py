"""The rule of `current.py` as views of DuckDB, for those who read an output with SQL."""

import pyarrow as pa

from beamscribe.pipelines.output import current, layout
from beamscribe.pipelines.photos import CAPTION_SCHEMA, GONE, PERSON, WITHDRAWN

_TEMPLATE = """\
-- The captions of {output}, for DuckDB: run this file, then `select photo, caption from captions`.

-- All rows of all runs. Older files lack some columns, which are null here.
create or replace view history as
select {columns}, filename from (
  select {nulls}, null::varchar as filename where false
  union all by name
  select * from read_parquet({files}, union_by_name = true, filename = true, hive_partitioning = false)
);

-- The current row of each photo that is still there.
create or replace view captions as
with kinds as (
  select *,
    row_number() over (
      partition by photo
      order by case when run_number between 0 and {greatest} then run_number else 0 end, written_at, filename desc
    ) as place,
    status = 'failed' and error in ({passing})
      and not (error = 'decoder_killed' and coalesce(attempts, 0) >= {most_kills}) as may_pass,
    coalesce(source = '{person}', false) or status = '{withdrawn}' as is_persons,
    is_persons and taken_from is null and status <> '{gone}' as is_edit
  from history
), places as (
  select *,
    max(place) filter (where not is_edit) over of_photo as newest,
    max(place) filter (where not is_edit and not may_pass) over of_photo as lasting,
    max(place) filter (where is_edit) over of_photo as edit,
    max(place) filter (where is_persons and not is_edit and status <> '{gone}') over of_photo as taken
  from kinds
  window of_photo as (partition by photo)
), latest as (
  select *,
    coalesce(edit, taken) as person,
    -- Of a photo that had gone, a later failure says that it is there again.
    case when lasting is null or (newest <> lasting and bool_or(place = lasting and status = '{gone}') over of_photo)
      then newest else lasting end as latest
  from places
  window of_photo as (partition by photo)
), compared as (
  select *,
    {digests}
    bool_or(place = person and status = '{withdrawn}') over of_photo as is_withdrawn,
    bool_or(place = latest and status = '{gone}') over of_photo as is_gone
  from latest
  window of_photo as (partition by photo)
)
select {columns}
from compared
where place = case
    when person is not null and not is_withdrawn and not is_gone and (
      latest is null or case
        when person_image_sha256 is not null and latest_image_sha256 is not null
          then person_image_sha256 = latest_image_sha256
        when person_sha256 is not null and latest_sha256 is not null then person_sha256 = latest_sha256
        else person_etag = latest_etag end
    ) then person else latest end
  and status <> '{gone}';
"""


def views(output: str) -> str:
    """SQL that makes two views of an output folder in DuckDB: `captions`, a row a photo, and `history`, all rows.

    Args:
      output: the folder that holds the captions of all runs.
    """
    digests = (
        f"max({name}) filter (where place = {row}) over of_photo as {row}_{name},"
        for row in ("person", "latest")
        for name in ("image_sha256", "sha256", "etag")
    )
    return _TEMPLATE.format(
        output=output.replace("\n", " "),
        columns=", ".join(map(_quoted, CAPTION_SCHEMA.names)),
        nulls=", ".join(f"null::{_type(field.type)} as {_quoted(field.name)}" for field in CAPTION_SCHEMA),
        files="'" + layout.all_committed_files(output).replace("'", "''") + "'",
        passing=", ".join(f"'{code}'" for code in current.PASSING),
        most_kills=current.MOST_KILLS,
        greatest=current.GREATEST_NUMBER,
        person=PERSON,
        withdrawn=WITHDRAWN,
        gone=GONE,
        digests="\n    ".join(digests),
    )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _type(kind: pa.DataType) -> str:
    """The type of DuckDB that holds the values of one of Arrow."""
    if pa.types.is_list(kind):
        return f"{_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{_quoted(field.name)} {_type(field.type)}' for field in kind)})"
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    return {pa.string(): "varchar", pa.int32(): "integer", pa.int64(): "bigint", pa.float32(): "float"}[kind]
