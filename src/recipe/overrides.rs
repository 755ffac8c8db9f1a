//! `key=value` arguments. They are merged into the tree before its sections are read, so that the
//! same rules apply to them as to the file.

use std::collections::BTreeMap;

use super::notes::Notes;
use super::place::Location;
use super::synonyms;
use super::tree::{KeyValue, MAX_DEPTH, Node, NodeValue, parse, shorten};
use crate::fault::Fault;

/// Applies the overrides. Of two for one key the later wins.
pub(super) fn apply(root: &mut Node, overrides: &[String], notes: &Notes) {
    for typed in overrides {
        let place = Location::Override(shorten(typed));
        if let Err(fault) = apply_one(root, typed, &place, notes) {
            notes.say(&place, fault);
        }
    }
}

fn apply_one(root: &mut Node, typed: &str, place: &Location, notes: &Notes) -> Result<(), Fault> {
    let form =
        || Fault::new("expected `key=value`").hint("write it as in `training.learning_rate=1e-4`");
    let (path, value) = typed.split_once('=').ok_or_else(form)?;
    let keys: Vec<&str> = path.trim().split('.').collect();
    if keys.contains(&"") || keys.len() > MAX_DEPTH {
        return Err(form());
    }
    // A value that cannot be read has its fault in the notes.
    if let Some(value) = parse(value, &|_| place.clone(), notes) {
        *find(root, &keys, place)? = value;
    }
    Ok(())
}

/// Returns the node that the keys lead to; keys that the file lacks are created.
fn find<'a>(root: &'a mut Node, keys: &[&str], place: &Location) -> Result<&'a mut Node, Fault> {
    let mut node = root;
    for (depth, key) in keys.iter().enumerate() {
        let parent = keys[..depth].join(".");
        if node.is_blank() {
            *node = Node {
                place: place.clone(),
                kind: NodeValue::Map(BTreeMap::new()),
            };
        }
        node = match &mut node.kind {
            NodeValue::Map(entries) => {
                let blank = || KeyValue {
                    place: place.clone(),
                    value: Node::blank(place.clone()),
                };
                &mut entries.entry((*key).to_owned()).or_insert_with(blank).value
            }
            NodeValue::List(nodes) => element(nodes, &parent, key)?,
            NodeValue::Scalar { text, .. } => {
                let mut fault = Fault::new(format!(
                    "`{parent}` holds no keys, so `{key}` cannot be set in it"
                ));
                fault.hint = synonyms::of_value(&parent, text);
                return Err(fault);
            }
            NodeValue::Refused => {
                return Err(Fault::new(format!(
                    "`{parent}` holds no keys, so `{key}` cannot be set in it"
                )));
            }
        };
    }
    Ok(node)
}

fn element<'a>(nodes: &'a mut [Node], parent: &str, key: &str) -> Result<&'a mut Node, Fault> {
    let count = nodes.len();
    let Ok(index) = key.parse::<usize>() else {
        let fault = Fault::new(format!(
            "`{parent}` is a list: expected a number after it, found `{key}`"
        ));
        return Err(fault.hint(format!("the first element is `{parent}.0`")));
    };
    nodes.get_mut(index).ok_or_else(|| {
        let elements = if count == 1 {
            "1 element".into()
        } else {
            format!("{count} elements")
        };
        Fault::new(format!(
            "`{parent}.{key}` is not there: `{parent}` has {elements}, counted from 0"
        ))
    })
}
