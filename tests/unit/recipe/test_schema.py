"""The JSON schema for editors."""

import json

from lomt.recipe import recipe_schema


def _properties(schema, name):
    return schema["$defs"][name]["properties"]


def test_required_keys_are_those_that_must_be_written():
    schema = recipe_schema()
    assert schema["required"] == ["name", "data", "tasks", "model", "train"]
    assert schema["$defs"]["TrainSettings"]["required"] == ["epochs", "optimizer"]
    assert (
        "required" not in schema["$defs"]["LocateSettings"]
        or not schema["$defs"]["LocateSettings"]["required"]
    )


def test_inheriting_blocks_need_no_key_and_promise_no_default():
    schema = recipe_schema()
    assert _properties(schema, "LocateSettings")["train"]["$ref"] == "#/$defs/PartialTrainSettings"
    assert _properties(schema, "RewireSettings")["train"]["$ref"] == "#/$defs/PartialTrainSettings"
    assert _properties(schema, "PruneSettings")["train"]["$ref"] == "#/$defs/PartialTrainSettings"
    assert _properties(schema, "TaskSettings")["decoder"]["$ref"] == "#/$defs/PartialDecoderSettings"
    partial = schema["$defs"]["PartialTrainSettings"]
    assert "required" not in partial
    assert partial["additionalProperties"] is False
    assert "default" not in partial["properties"]["batch_size"]
    assert partial["properties"]["optimizer"]["$ref"] == "#/$defs/PartialOptimizerSettings"
    assert _properties(schema, "TrainSettings")["batch_size"]["default"] == 8


def test_every_reference_leads_somewhere_and_every_definition_is_used():
    schema = recipe_schema()
    text = json.dumps(schema)
    names = set(schema["$defs"])
    used = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert used == names


def test_editors_get_descriptions_with_units():
    data = _properties(recipe_schema(), "DataSettings")
    assert data["size"]["description"] == "Height and width in pixels of what the model sees."
    assert all("description" in entry for entry in data.values())
