"""Loads a SavedModel if nothing in it can do more than compute: a model is a program, and TensorFlow runs all of it.

TensorFlow is imported inside of the functions, so that a process that loads no model need not load it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beamscribe.model.errors import BeamscribeError, one_line

MODEL = "saved_model.pb"

# What `beamscribe.model.saved_model` exports, of every encoder and decoder, and more of the same kinds: operations on
# numbers and texts, which reach no file, no network, no Python and nothing else of this process.
_PLAIN = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool BatchMatMul BatchMatMulV2
    BiasAdd BroadcastArgs BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D Cos Cosh Cumprod Cumsum
    DepthwiseConv2dNative DivNoNan Einsum Elu EnsureShape Equal Erf Erfc Exp ExpandDims Expm1 Fill Floor FloorDiv
    FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity
    IdentityN InvertPermutation IsFinite IsInf IsNan L2Loss LeakyRelu Less LessEqual LinSpace Log Log1p LogSoftmax
    LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart MatrixDiagV3 Max MaxPool Maximum Mean Min Minimum MirrorPad
    Mod Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault Pow
    PreventGradient Prod Range Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Reverse
    ReverseSequence ReverseV2 Rint Round Rsqrt ScatterNd SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze StopGradient
    StridedSlice Sub Sum Tan Tanh TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterUpdate Tile TopK
    TopKV2 Transpose TruncateDiv TruncateMod Unpack Where Xdivy Xlogy ZerosLike
    AsString ReduceJoin RegexReplace StaticRegexReplace StringJoin StringLength StringLower StringStrip StringUpper
    EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
    Case If PartitionedCall ReadVariableOp StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile While
    """.split()  # noqa: SIM905 - as a list, it is two hundred lines
)
# What stands for the model's own weights, outside of all functions.
_OF_THE_GRAPH = _PLAIN | {"VarHandleOp"}
# TensorFlow puts functions into every SavedModel that save and restore its weights. Nothing here calls them: TensorFlow
# itself restores weights, from the files beside the graph.
_SAVING = ("__inference__traced_save_", "__inference__traced_restore_")
_OF_SAVING = _PLAIN | {
    *("AssignVariableOp", "DisableCopyOnRead", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"),
    "StaticRegexFullMatch",
}
# The kinds of objects that weights, constants and functions are. Resources, such as tables, and assets, which are
# files, have initialisers, which run as the model is loaded.
_OBJECTS = {"bare_concrete_function", "captured_tensor", "constant", "function", "user_object", "variable"}
_CLASSES = {"", "tf.TrackableConstant"}
_USER_OBJECTS = {"_generic_user_object", "signature_map", "trackable_list_wrapper", "trackable_dict_wrapper"}


def load(folder: Path) -> Any:
    """Loads a SavedModel; nothing of it has been run before it was checked.

    Args:
      folder: of the SavedModel.

    Returns:
      What `tf.saved_model.load` does.

    Raises:
      BeamscribeError: its graph does more than compute, or is none.
    """
    import tensorflow as tf

    check(folder)
    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:
        # TensorFlow raises nearly anything for a model whose parts do not fit together.
        raise BeamscribeError(f"the model {folder} can't be loaded: {one_line(error)}; get the bundle again") from error


def check(folder: Path) -> None:
    """Checks that a SavedModel does no more than compute, and runs none of it.

    Args:
      folder: of the SavedModel.

    Raises:
      BeamscribeError: it has an operation or an object of a kind that captioning does not need, or it is no SavedModel.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((folder / MODEL).read_bytes())
    except (OSError, DecodeError):
        # TensorFlow would look for a file in another form.
        raise BeamscribeError(f"the model {folder} is refused: it has no {MODEL} that can be read") from None
    fault = next(_faults(model), None)
    if fault:
        raise BeamscribeError(
            f"the model {folder} is refused, and nothing of it was run: it has {fault}, which captioning does not need "
            "and which might reach files or the network; get another bundle"
        )


def _faults(model: Any) -> Iterator[str]:
    """What a model has that captioning does not need, each as a text."""
    for meta_graph in model.meta_graphs:
        yield from _faults_of_operations(meta_graph.graph_def)
    # Any other model is loaded in the way of TensorFlow 1, which runs operations by their names.
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        yield "the form of TensorFlow 1"
        return
    (meta_graph,) = model.meta_graphs
    if meta_graph.asset_file_def:
        yield f"the asset {meta_graph.asset_file_def[0].filename!r}"
    yield from _faults_of_objects(meta_graph.object_graph_def)


def _faults_of_operations(graph: Any) -> Iterator[str]:
    for node in graph.node:
        if node.op not in _OF_THE_GRAPH:
            yield f"the operation {node.op}"
    for function in graph.library.function:
        name = function.signature.name
        saves = name.startswith(_SAVING)
        for node in function.node_def:
            if node.op not in (_OF_SAVING if saves else _PLAIN):
                yield f"the operation {node.op} in {name}"
            for called in _called(node.attr.values()):
                if called.startswith(_SAVING):
                    yield f"a call of {called} in {name}"
        # A call would be checked as one of the operation.
        if name in _OF_THE_GRAPH or name in _OF_SAVING:
            yield f"a function with the name of the operation {name}"
    for gradient in (*graph.library.gradient, *graph.library.registered_gradients):
        yield f"the gradient {gradient.gradient_func}"


def _called(attributes: Iterable[Any]) -> Iterator[str]:
    """The names of the functions that attributes of a node hold."""
    for value in attributes:
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
            yield from _called(function.attr.values())


def _faults_of_objects(graph: Any) -> Iterator[str]:
    for item in graph.nodes:
        kind = item.WhichOneof("kind")
        if kind not in _OBJECTS:
            yield f"an object of the kind {kind}"
        for name in (item.registered_name, item.registered_saver):
            if name not in _CLASSES:
                yield f"an object of the class {name!r}"
        if kind == "user_object" and item.user_object.identifier not in _USER_OBJECTS:
            yield f"an object of the class {item.user_object.identifier!r}"
        if item.saveable_objects or item.slot_variables:
            yield "an object with functions that restore it"
    for name in graph.concrete_functions:
        if name.startswith(_SAVING):
            yield f"the function {name} as one that can be called"
