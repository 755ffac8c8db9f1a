//! `DeepSeek` V2 and V3 (and R1, Kimi K2): latent attention, and behind some dense layers routed experts beside shared ones.

use super::qwen3_moe::FORM;
use super::{
    Config, DecoderSpec, Error, ExpertsSpec, GatedSpec, LatentSpec, LayerSpec, RouterGroups, RouterScore, RouterSpec, decoder,
    rope,
};

const NORM_EPSILON: f64 = 1e-6;

pub(super) fn second(config: &Config) -> Result<DecoderSpec, Error> {
    config.only("topk_method", &["greedy", "group_limited_greedy"])?;
    if config.flag("norm_topk_prob", false)? {
        return Err(config.fault("`norm_topk_prob` is `true`, known is `false`"));
    }
    let is_limited = config.text("topk_method")? == Some("group_limited_greedy");
    let router = RouterSpec {
        experts: config.size_or("n_routed_experts", 64)?,
        chosen: config.size("num_experts_per_tok")?,
        score: RouterScore::Softmax,
        groups: if is_limited { groups(config, None)? } else { None },
        normalises: false,
        scale: config.number_or_none("routed_scaling_factor")?.unwrap_or(1.0),
        bias: false,
    };
    spec(config, 2048, router, [2, 1407], 0, true)
}

pub(super) fn third(config: &Config) -> Result<DecoderSpec, Error> {
    config.only("topk_method", &["noaux_tc"])?;
    config.only("scoring_func", &["sigmoid"])?;
    let router = RouterSpec {
        experts: config.size_or("n_routed_experts", 256)?,
        chosen: config.size_or("num_experts_per_tok", 8)?,
        score: RouterScore::Sigmoid,
        groups: groups(config, Some(RouterGroups { count: 8, chosen: 4 }))?,
        normalises: config.flag("norm_topk_prob", true)?,
        scale: config.number_or_none("routed_scaling_factor")?.unwrap_or(2.5),
        bias: false,
    };
    spec(config, 4096, router, [1, 2048], 3, config.flag("rope_interleave", true)?)
}

fn groups(config: &Config, absent: Option<RouterGroups>) -> Result<Option<RouterGroups>, Error> {
    let (count, chosen) = (config.size_or_none("n_group")?, config.size_or_none("topk_group")?);
    let count = count.or(absent.map(|groups| groups.count)).ok_or_else(|| config.fault("`n_group` is missing"))?;
    let chosen = chosen.or(absent.map(|groups| groups.chosen)).ok_or_else(|| config.fault("`topk_group` is missing"))?;
    Ok(Some(RouterGroups { count, chosen }))
}

/// `shared` has how many shared experts there are and the width of an expert where the config does not say.
fn spec(
    config: &Config,
    context: usize,
    router: RouterSpec,
    shared: [usize; 2],
    dense_layers: usize,
    interleaved: bool,
) -> Result<DecoderSpec, Error> {
    let (heads, rope_dim) = (config.size("num_attention_heads")?, config.size_or("qk_rope_head_dim", 64)?);
    if config.size_or("num_key_value_heads", heads)? != heads {
        return Err(config.fault(format!("`num_key_value_heads` is not `num_attention_heads`, {heads}")));
    }
    if !rope_dim.is_multiple_of(2) {
        return Err(config.fault(format!("`qk_rope_head_dim` is {rope_dim}, expected an even number: rotation works on pairs")));
    }
    // Where the key is there and null, queries come from the stream.
    let absent = if config.has("q_lora_rank") { None } else { Some(1536) };
    let plain_dim = config.size_or("qk_nope_head_dim", 128)?;
    let rope = rope::spec(config, rope_dim, context)?;
    let stretch = rope::magnitude(config)?;
    let mixer = LatentSpec {
        heads,
        query_rank: config.size_or_none("q_lora_rank")?.or(absent),
        kv_rank: config.size_or("kv_lora_rank", 512)?,
        plain_dim,
        rope_dim,
        value_dim: config.size_or("v_head_dim", 128)?,
        bias: config.flag("attention_bias", false)?,
        rope,
        interleaved,
        score_scale: ((plain_dim + rope_dim) as f64).powf(-0.5) * stretch * stretch,
        norm_epsilon: NORM_EPSILON,
    };
    config.only("hidden_act", &["silu"])?;
    let [shared_count, inner] = shared;
    let expert = GatedSpec::new(config.size_or("moe_intermediate_size", inner)?);
    let shared = config.size_or("n_shared_experts", shared_count)? * expert.inner;
    let experts = ExpertsSpec { router, expert, form: FORM, shared: Some(shared) };
    if config.flag("mlp_bias", false)? {
        return Err(config.fault("`mlp_bias` is `true`, known is `false`"));
    }
    let dense_layers = config.count_or("first_k_dense_replace", dense_layers)?;
    if config.size_or("moe_layer_freq", 1)? != 1 {
        return Err(config.fault("`moe_layer_freq` is not 1, which is known"));
    }
    decoder(config, context, |index| {
        if index < dense_layers {
            return Ok(LayerSpec::new(mixer.clone(), GatedSpec::new(config.size("intermediate_size")?)));
        }
        Ok(LayerSpec::new(mixer.clone(), experts.clone()))
    })
}
