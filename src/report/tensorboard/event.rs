//! Conversion of events to records of an event file.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tensorboard_proto::event::{Event as Record, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::{
    Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::summary::scalar;

use crate::report::{Event, Sample};

/// Returns the record with which every file begins.
pub(super) fn version() -> Record {
    let mut record = now(0);
    record.set_file_version("brain.Event:2".to_owned());
    record
}

/// Returns the start of a session.
///
/// Readers then drop the step `first` and later ones of earlier files, see `_Purge` in
/// <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/backend/event_processing/plugin_event_accumulator.py>.
pub(super) fn session_start(first: u64) -> Record {
    let mut session = SessionLog::new();
    session.set_status(SessionLog_SessionStatus::START);
    let mut record = now(first);
    record.set_session_log(session);
    record
}

/// Converts an event to a record; `None` if TensorBoard does not show it.
pub(super) fn record(event: &Event) -> Option<Record> {
    match event {
        Event::Step(step) => scalars(&serde_json::to_value(step).ok()?),
        Event::Evaluated(evaluation) => scalars(&serde_json::to_value(evaluation).ok()?),
        Event::Sampled(sample) => Some(text(sample)),
        Event::Progress { .. }
        | Event::Transfer(_)
        | Event::Line(_)
        | Event::Note(_)
        | Event::Started { .. }
        | Event::Ended
        | Event::Saved { .. } => None,
    }
}

/// Converts a line of metrics.jsonl to scalars, under the names that transformers uses: `eval_loss`
/// is `eval/loss`, `loss` is `train/loss`.
pub(super) fn scalars(line: &Value) -> Option<Record> {
    let number = |value: &Value| {
        value
            .as_f64()
            .or_else(|| value.as_bool().map(|is_so| f64::from(u8::from(is_so))))
    };
    let tag = |key: &str| {
        key.strip_prefix("eval_")
            .map_or_else(|| format!("train/{key}"), |key| format!("eval/{key}"))
    };
    let numbers = line.as_object()?.iter().filter(|(key, _)| *key != "step");
    let values = numbers
        .filter_map(|(key, value)| Some(scalar(&tag(key), number(value)? as f32).take_value()));
    let mut summary = Summary::new();
    summary.set_value(values.flatten().collect());
    let mut record = now(line["step"].as_u64()?);
    record.set_summary(summary);
    Some(record)
}

/// Converts a prompt and its answer to a text record. TensorBoard renders Markdown, so the text is
/// indented to be shown verbatim.
fn text(sample: &Sample) -> Record {
    let as_it_is = |text: &str| {
        text.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    let shown = format!(
        "{}\n---\n\n{}",
        as_it_is(&sample.prompt),
        as_it_is(&sample.text)
    );
    let mut one = TensorShapeProto_Dim::new();
    one.set_size(1);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(vec![one].into());
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.set_tensor_shape(shape);
    tensor.set_string_val(vec![shown.into_bytes()].into());
    let mut plugin = SummaryMetadata_PluginData::new();
    plugin.set_plugin_name("text".to_owned());
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(plugin);
    let mut value = Summary_Value::new();
    value.set_tag(format!("samples/{}", sample.place));
    value.set_metadata(metadata);
    value.set_tensor(tensor);
    let mut summary = Summary::new();
    summary.set_value(vec![value].into());
    let mut record = now(sample.step);
    record.set_summary(summary);
    record
}

fn now(step: u64) -> Record {
    let mut record = Record::new();
    record.set_wall_time(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64()),
    );
    record.set_step(step.cast_signed());
    record
}
