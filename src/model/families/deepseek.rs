//! `DeepSeek` V2 and V3 (and R1, Kimi K2): latent attention; after some dense layers, routed
//! experts beside shared ones.

use super::qwen3_moe::FORM;
use super::{
    ConfigJson, DecoderSpec, ExpertsSpec, GatedSpec, LatentSpec, LayerSpec, ModelError,
    RouterGroups, RouterScore, RouterSpec, SharedExpertSpec, decoder, experts, only_silu, rope,
};

const NORM_EPSILON: f64 = 1e-6;

pub(super) fn second(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    config.not_null("topk_method", "`greedy` or `group_limited_greedy`")?;
    config.only("topk_method", &["greedy", "group_limited_greedy"])?;
    config.only("scoring_func", &["softmax"])?;
    if config.flag("norm_topk_prob", false)? {
        return Err(config.fault("`norm_topk_prob` is `true`, known is `false`"));
    }
    let is_limited = config.text("topk_method")? == Some("group_limited_greedy");
    let router = RouterSpec {
        experts: experts(
            config,
            ["num_experts", "n_routed_experts"],
            "n_routed_experts",
        )?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: if is_limited {
            Some(groups(config)?)
        } else {
            None
        },
        normalizes: false,
        scale: config.number("routed_scaling_factor")?,
        bias: false,
    };
    spec(config, router, true)
}

pub(super) fn third(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let rope_dim = config.size("qk_rope_head_dim")?;
    config.not_null("head_dim", "`qk_rope_head_dim`")?;
    let head_dim = config.size_or("head_dim", rope_dim)?;
    if head_dim != rope_dim {
        return Err(config.fault(format!(
            "`head_dim` is {head_dim}, expected `qk_rope_head_dim`, {rope_dim}"
        )));
    }
    config.only("topk_method", &["noaux_tc"])?;
    config.only("scoring_func", &["sigmoid"])?;
    let router = RouterSpec {
        experts: experts(
            config,
            ["num_local_experts", "n_routed_experts"],
            "n_routed_experts",
        )?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Sigmoid,
        groups: Some(groups(config)?),
        normalizes: config.flag("norm_topk_prob", false)?,
        scale: config.number("routed_scaling_factor")?,
        bias: false,
    };
    spec(config, router, config.flag("rope_interleave", false)?)
}

fn groups(config: &ConfigJson) -> Result<RouterGroups, ModelError> {
    Ok(RouterGroups {
        count: config.size("n_group")?,
        chosen: config.size("topk_group")?,
    })
}

fn spec(
    config: &ConfigJson,
    router: RouterSpec,
    interleaved: bool,
) -> Result<DecoderSpec, ModelError> {
    let mixer = mixer(config, interleaved)?;
    only_silu(config)?;
    let expert = GatedSpec::new(config.size("moe_intermediate_size")?);
    let shared = SharedExpertSpec {
        module: "mlp.shared_experts",
        inner: config.size("n_shared_experts")? * expert.inner,
        gate: None,
    };
    let experts = ExpertsSpec {
        router,
        expert,
        form: FORM,
        shared: Some(shared),
    };
    if config.flag("mlp_bias", false)? {
        return Err(config.fault("`mlp_bias` is `true`, known is `false`"));
    }
    let dense_layers = config.count_or("first_k_dense_replace", 0)?;
    let step = config.size_or("moe_layer_freq", 1)?;
    if step != 1 {
        return Err(config.fault(format!("`moe_layer_freq` is {step}, known is 1")));
    }
    decoder(config, |index| {
        if index < dense_layers {
            return Ok(LayerSpec::new(
                mixer.clone(),
                GatedSpec::new(config.size("intermediate_size")?),
            ));
        }
        Ok(LayerSpec::new(mixer.clone(), experts.clone()))
    })
}

fn mixer(config: &ConfigJson, interleaved: bool) -> Result<LatentSpec, ModelError> {
    let (heads, rope_dim) = (
        config.size("num_attention_heads")?,
        config.size("qk_rope_head_dim")?,
    );
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    if kv_heads != heads {
        return Err(config.fault(format!(
            "`num_key_value_heads` is {kv_heads}, expected `num_attention_heads`, {heads}"
        )));
    }
    if !rope_dim.is_multiple_of(2) {
        return Err(config.fault(format!(
            "`qk_rope_head_dim` is {rope_dim}, expected an even number: rotation works on pairs"
        )));
    }
    let plain_dim = config.size("qk_nope_head_dim")?;
    let (rope, stretch) = (rope::spec(config, rope_dim)?, rope::magnitude(config)?);
    let rope = if interleaved {
        rope::of_neighbors(rope)
    } else {
        rope
    };
    Ok(LatentSpec {
        heads,
        // Where the key is there and null, queries come from the stream.
        query_rank: config.size_or_none("q_lora_rank")?,
        kv_rank: config.size("kv_lora_rank")?,
        plain_dim,
        rope_dim,
        value_dim: config.size("v_head_dim")?,
        bias: config.flag("attention_bias", false)?,
        rope,
        score_scale: ((plain_dim + rope_dim) as f64).powf(-0.5) * stretch * stretch,
        norm_epsilon: NORM_EPSILON,
    })
}
