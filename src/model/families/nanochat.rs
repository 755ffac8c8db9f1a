//! nanochat: norms without weights, also of the embedding and of rotated queries and keys, a
//! rotation backwards, a feed-forward of squared `ReLU`, and capped logits.

use super::{
    ConfigJson, DecoderSpec, EmbeddingNorm, GroupedSpec, LayerSpec, ModelError, Names, NormKind,
    PlainActivation, PlainSpec, QueryKeyNorm, decoder, heads, rope,
};
use crate::nn::rope::RopeSpec;
use crate::ops::Rotation;

const NAMES: Names = Names {
    plain_mlp: ["mlp.fc1", "mlp.fc2"],
    ..Names::USUAL
};

pub(super) fn spec(config: &ConfigJson) -> Result<DecoderSpec, ModelError> {
    let shape = heads(config)?;
    let rope = RopeSpec {
        direction: Rotation::Back,
        ..rope::spec(config, shape[2])?
    };
    let bias = config.flag("attention_bias", false)?;
    let mixer = GroupedSpec {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: QueryKeyNorm::HeadsAfterRotation,
        ..GroupedSpec::new(shape, rope)
    };
    config.only("hidden_act", &["relu2"])?;
    let mlp = PlainSpec {
        inner: config.size("intermediate_size")?,
        bias: false,
        activation: PlainActivation::SquaredRelu,
    };
    Ok(DecoderSpec {
        names: NAMES,
        norm: NormKind::Bare,
        embedding_norm: EmbeddingNorm::Bare,
        final_softcap: config.number_or_none("final_logit_softcapping")?,
        ..decoder(config, |_| Ok(LayerSpec::new(mixer.clone(), mlp.clone())))?
    })
}
