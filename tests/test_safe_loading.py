"""A model that does more than compute is refused before anything of it has run, by every way in."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from beamscribe.jobs import cli
from beamscribe.model import bundle, safe_loading
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.errors import BeamscribeError


@pytest.fixture
def changed(tiny_bundle, tmp_path):
    """Makes a bundle whose model is changed by a function."""

    def change(function) -> Path:
        folder = shutil.copytree(tiny_bundle, tmp_path / "changed")
        path = folder / bundle.SAVED_MODEL / safe_loading.MODEL
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        function(model)
        path.write_bytes(model.SerializeToString())
        signed(folder)
        return folder

    return change


def signed(folder: Path) -> None:
    """Gives a bundle the digest of its files, as whoever made it can."""
    path = folder / bundle.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": bundle._digest_of_files(folder)}))


def refused(folder: Path) -> str:
    """What is said of the bundle, whatever loads it."""
    with pytest.raises(BeamscribeError) as error:
        CaptionModel(folder)
    with pytest.raises(BeamscribeError, match="is refused"):
        bundle.restore(folder)
    assert f"the model {folder}/saved_model is refused" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def wrapper(model):
    """The function of a signature."""
    functions = model.meta_graphs[0].graph_def.library.function
    return next(function for function in functions if "signature_wrapper" in function.signature.name)


@pytest.mark.parametrize(
    "op",
    [
        *("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "PyFuncStateless", "PrintV2", "Save"),
        *(
            "SaveV2",
            "RestoreV2",
            "MergeV2Checkpoints",
            "ShardedFilename",
            "LMDBReader",
            "TextLineDataset",
            "HashTableV2",
        ),
        *("InitializeTableFromTextFileV2", "WriteSummary", "DebugIdentityV2", "RpcCall", "SendTPUEmbeddingGradients"),
        *("_Recv", "Send", "DecodeJpeg", "VarHandleOp", "AssignVariableOp", "NoSuchOperation"),
    ],
)
def test_an_operation_that_captioning_does_not_need_is_refused_by_its_name(op, changed):
    said = refused(changed(lambda model: wrapper(model).node_def.add(name="added", op=op)))
    assert f"it has the operation {op} in __inference_signature_wrapper_" in said


def test_one_outside_of_all_functions_is_refused(changed):
    folder = changed(lambda model: model.meta_graphs[0].graph_def.node.add(name="added", op="ReadFile"))
    assert "it has the operation ReadFile," in refused(folder)


def test_what_saves_weights_can_not_be_called(changed):
    def call(model):
        functions = model.meta_graphs[0].graph_def.library.function
        (saves,) = (one.signature.name for one in functions if "traced_save" in one.signature.name)
        node = wrapper(model).node_def.add(name="added", op="StatelessIf")
        node.attr["then_branch"].func.attr["f"].list.func.add(name=saves)

    assert "it has a call of __inference__traced_save_" in refused(changed(call))


def test_what_saves_weights_can_not_be_called_from_python(changed):
    def export(model):
        functions = model.meta_graphs[0].graph_def.library.function
        (saves,) = (one.signature.name for one in functions if "traced_save" in one.signature.name)
        model.meta_graphs[0].object_graph_def.concrete_functions[saves].SetInParent()

    assert "as one that can be called" in refused(changed(export))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("an object of the kind resource", lambda item: item.resource.SetInParent()),
        ("an object of the kind asset", lambda item: item.asset.SetInParent()),
        ("an object of the class 'keras.Model'", lambda item: setattr(item, "registered_name", "keras.Model")),
        ("an object of the class 'mine'", lambda item: setattr(item, "registered_saver", "mine")),
        ("an object with functions that restore it", lambda item: item.saveable_objects["x"].SetInParent()),
    ],
)
def test_an_object_that_captioning_does_not_need_is_refused(kind, change, changed):
    said = refused(changed(lambda model: change(model.meta_graphs[0].object_graph_def.nodes[0])))
    assert f"it has {kind}" in said


def test_other_forms_are_refused(changed):
    def asset(model):
        model.meta_graphs[0].asset_file_def.add(filename="../../../../etc/passwd")

    assert "it has the asset '../../../../etc/passwd'" in refused(changed(asset))


def test_the_form_of_tensorflow_1_is_refused(changed):
    folder = changed(lambda model: model.meta_graphs.append(model.meta_graphs[0]))
    assert "it has the form of TensorFlow 1" in refused(folder)


def test_a_function_does_not_take_the_name_of_an_operation(changed):
    def rename(model):
        model.meta_graphs[0].graph_def.library.function.add().signature.name = "AddV2"

    assert "it has a function with the name of the operation AddV2" in refused(changed(rename))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\xff")])
def test_what_is_no_model_is_refused(damage, tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "changed")
    damage(folder / bundle.SAVED_MODEL / safe_loading.MODEL)
    # TensorFlow reads it where there is no other.
    (folder / bundle.SAVED_MODEL / "saved_model.pbtxt").write_text("")
    signed(folder)
    assert "it has no saved_model.pb that can be read" in refused(folder)


def test_what_runs_as_a_model_is_loaded_is_not_run(tmp_path):
    """TensorFlow itself writes this model: a table whose initialiser reads a file, and a function that calls Python."""
    (tmp_path / "words.txt").write_text("a\nb\n")
    connected = []

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            line = tf.lookup.TextFileIndex
            words = tf.lookup.TextFileInitializer(
                str(tmp_path / "words.txt"), tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER
            )
            self.table = tf.lookup.StaticVocabularyTable(words, 1)

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def caption(self, text):
            tf.py_function(lambda: connected.append(socket.socket()), [], [])
            return self.table.lookup(text)

    tf.saved_model.save(Model(), str(tmp_path / "model"))
    with pytest.raises(BeamscribeError, match=r"the operation .* which captioning does not need"):
        safe_loading.load(tmp_path / "model")
    assert not connected


def test_a_job_with_such_a_bundle_ends_with_one_line(changed, tmp_path, make_photo, capsys):
    make_photo(tmp_path / "photos" / "1.jpg")

    def write(model):
        function = wrapper(model)
        for name, text in (("to", str(tmp_path / "WRITTEN")), ("what", "written by the model")):
            node = function.node_def.add(name=name, op="Const")
            node.attr["dtype"].type = tf.string.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(text))
        function.node_def.add(name="write", op="WriteFile", input=["to:output:0", "what:output:0"])
        function.control_ret["write"] = "write"
        function.signature.control_output.append("write")

    given = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--bundle", str(changed(write))]
    assert cli.main(["caption", *given]) == 1
    line = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "it has the operation WriteFile in __inference_signature_wrapper_" in line
    assert not (tmp_path / "WRITTEN").exists()
