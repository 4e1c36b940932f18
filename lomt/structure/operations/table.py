"""Which rule holds for which operation of ATen."""

from collections.abc import Callable

import torch

from lomt.structure.operations.call import Call, unknown
from lomt.structure.operations.contractions import attended, convolved, linear, multiplied
from lomt.structure.operations.elementwise import (
    elementwise,
    halved,
    made,
    made_in_order,
    prelu,
    same,
    written,
)
from lomt.structure.operations.pixels import folded, pooled, shuffled, unfolded, windowed
from lomt.structure.operations.shapes import (
    concatenated,
    cut_out,
    expanded,
    indexed,
    looked_up,
    padded,
    permuted,
    picked,
    repeated,
    reshaped,
    restrided,
    selected,
    split,
    squeezed,
    stacked,
    unsqueezed,
)
from lomt.structure.operations.statistics import (
    batch_normed,
    fixed_along,
    group_normed,
    layer_normed,
    reduced,
)

__all__ = ["RULES", "Rule", "follow"]


def follow(call: Call) -> None:
    """Apply the operation's rule."""
    if not call.results:
        return
    rule = RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.function.tags:
        rule = elementwise
    if rule is None:
        unknown(call)
    else:
        rule(call)


Rule = Callable[[Call], None]


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(
        same,
        "clone contiguous detach alias _to_copy lift lift_fresh lift_fresh_copy native_dropout dropout "
        "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli fill zero normal uniform "
        "_conj resolve_conj exponential random alpha_dropout feature_dropout",
    ),
    **_table(
        elementwise,
        "where masked_fill lerp addcmul addcdiv clamp hardtanh hardswish hardsigmoid gelu silu mish elu celu selu "
        "leaky_relu softplus threshold isnan isinf logit log_sigmoid_forward rsub pow ",
    ),
    **_table(written, "copy"),
    **_table(
        made,
        "zeros ones empty full new_zeros new_ones new_empty new_full empty_strided new_empty_strided "
        "empty_permuted rand randn scalar_tensor",
    ),
    **_table(made_in_order, "arange linspace eye logspace randperm tril_indices triu_indices"),
    **_table(reshaped, "view _unsafe_view reshape _reshape_alias view_copy _reshape_copy"),
    **_table(restrided, "as_strided"),
    **_table(permuted, "permute transpose t"),
    **_table(expanded, "expand expand_as broadcast_to"),
    **_table(repeated, "repeat"),
    **_table(cut_out, "slice"),
    **_table(split, "split split_with_sizes chunk unsafe_split unsafe_chunk unsafe_split_with_sizes"),
    **_table(picked, "select unbind"),
    **_table(unsqueezed, "unsqueeze"),
    **_table(squeezed, "squeeze"),
    **_table(concatenated, "cat concat concatenate"),
    **_table(stacked, "stack"),
    **_table(padded, "constant_pad_nd"),
    **_table(indexed, "index _unsafe_index"),
    **_table(looked_up, "embedding"),
    **_table(selected, "index_select"),
    **_table(
        fixed_along,
        "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod logcumsumexp sort argsort "
        "topk roll flip",
    ),
    **_table(
        reduced,
        "sum mean var std var_mean std_mean norm linalg_vector_norm nansum logsumexp prod any all amax amin "
        "aminmax max min argmax argmin median",
    ),
    **_table(
        pooled,
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
        "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "grid_sampler_2d grid_sampler_3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d mkldnn_max_pool2d",
    ),
    **_table(
        convolved,
        "convolution _convolution mkldnn_convolution conv1d conv2d conv3d convolution_overrideable",
    ),
    **_table(multiplied, "mm addmm bmm baddbmm addbmm mv addmv dot vdot"),
    **_table(linear, "linear mkldnn_linear"),
    **_table(
        attended,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_attention_math scaled_dot_product_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    **_table(layer_normed, "native_layer_norm layer_norm _fused_rms_norm rms_norm"),
    **_table(group_normed, "native_group_norm group_norm"),
    **_table(
        batch_normed,
        "native_batch_norm batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update "
        "_batch_norm_with_update_functional",
    ),
    **_table(shuffled, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    **_table(unfolded, "im2col"),
    **_table(folded, "col2im"),
    **_table(windowed, "unfold"),
    **_table(halved, "glu"),
    **_table(prelu, "prelu _prelu_kernel"),
}
