//! Rows of tokens that a base does not have. They train as PEFT's `trainable_token_indices`, or in
//! tables that train whole.

use std::collections::BTreeSet;

use super::module_names::named;
use super::tables::{SAVED, TOKENS, refused};
use super::{AdapterError, LoraConfig};
use crate::model::{LinearSpec, Role};
use crate::terms::TokenIndices;

impl LoraConfig {
    /// Adds the rows of new tokens to what trains, in a model with these modules: those of
    /// embedding and head, except in a table that trains whole.
    ///
    /// # Errors
    /// A table has low-rank matrices, or one of two tied tables trains whole.
    pub fn add_token_rows(
        &mut self,
        rows: &BTreeSet<u32>,
        modules: &[LinearSpec],
    ) -> Result<(), AdapterError> {
        let tables: Vec<&LinearSpec> = modules.iter().filter(|linear| linear.is_table()).collect();
        let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
        if let Some(target) = self.resolve(&names).unwrap_or_default().first() {
            let message = format!(
                "`{}` has low-rank matrices by `target_modules`, which have no rows for new tokens",
                target.module
            );
            let hint = "leave it out of `target_modules`, or train it whole: `modules_to_save: \
                [embed_tokens, lm_head]`";
            return Err(refused(TOKENS, message, hint));
        }
        let is_saved = |table: &LinearSpec| {
            self.tables
                .saved
                .iter()
                .any(|name| named(&table.name, name))
        };
        let left: Vec<&LinearSpec> = tables
            .iter()
            .copied()
            .filter(|table| !is_saved(table))
            .collect();
        let is_tied = tables.iter().any(|table| table.role == Role::TiedHead);
        if is_tied && left.len() == 1 {
            let message = format!(
                "embedding and head are one table in the base; one trains whole, and `{}` lacks \
                the rows of new tokens",
                left[0].name
            );
            return Err(refused(
                SAVED,
                message,
                "name both, `modules_to_save: [embed_tokens, lm_head]`, or none",
            ));
        }
        if !left.is_empty() {
            let said = self.tables.tokens.take();
            self.tables.tokens = Some(with_rows(said, rows, &left));
        }
        Ok(())
    }
}

/// Returns the configured rows with the new ones in each table. A tied head has the embedding's
/// rows.
fn with_rows(
    said: Option<TokenIndices>,
    rows: &BTreeSet<u32>,
    tables: &[&LinearSpec],
) -> TokenIndices {
    let add = |mut tokens: Vec<u32>| {
        let new: Vec<u32> = rows
            .iter()
            .copied()
            .filter(|row| !tokens.contains(row))
            .collect();
        tokens.extend(new);
        tokens
    };
    let has_own_head = tables.iter().any(|table| table.role == Role::Head);
    let embedding = tables.iter().find(|table| table.role == Role::Embedding);
    let mut by_name = match (said, embedding) {
        (None, Some(_)) if !has_own_head => return TokenIndices::Embedding(add(Vec::new())),
        (Some(TokenIndices::Embedding(tokens)), Some(_)) if !has_own_head => {
            return TokenIndices::Embedding(add(tokens));
        }
        (Some(TokenIndices::Embedding(tokens)), Some(embedding)) => {
            vec![(last(&embedding.name), tokens)]
        }
        (Some(TokenIndices::Modules(by_name)), _) => by_name,
        (None | Some(TokenIndices::Embedding(_)), _) => Vec::new(),
    };
    for table in tables {
        match by_name
            .iter_mut()
            .find(|(name, _)| named(&table.name, name))
        {
            Some((_, tokens)) => *tokens = add(std::mem::take(tokens)),
            None if table.role == Role::TiedHead => {}
            None => by_name.push((last(&table.name), add(Vec::new()))),
        }
    }
    TokenIndices::Modules(by_name)
}

/// Returns the name by which PEFT finds a module.
fn last(module: &str) -> String {
    module.rsplit('.').next().unwrap_or(module).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Targets;
    use crate::model::{LinearKind, WeightOrder};
    use crate::terms::Modules;

    fn modules(head: Role) -> Vec<LinearSpec> {
        let table = |name: &str, role| LinearSpec {
            name: name.to_owned(),
            inputs: 8,
            outputs: 4,
            bias: false,
            role,
            kind: LinearKind::Module,
            order: WeightOrder::OutIn,
        };
        vec![
            table("model.embed_tokens", Role::Embedding),
            table("lm_head", head),
        ]
    }

    fn tokens(
        said: Option<TokenIndices>,
        saved: &[&str],
        head: Role,
    ) -> Result<Option<TokenIndices>, AdapterError> {
        let mut config = LoraConfig::all_linear(4, 8.0);
        config.tables.tokens = said;
        config.tables.saved = saved.iter().map(|name| (*name).to_owned()).collect();
        config
            .add_token_rows(&BTreeSet::from([6, 7]), &modules(head))
            .map(|()| config.tables.tokens)
    }

    #[test]
    fn rows_train_in_each_table_that_does_not_train_whole() {
        let named = |entries: &[(&str, &[u32])]| {
            Some(TokenIndices::Modules(
                entries
                    .iter()
                    .map(|(name, tokens)| ((*name).to_owned(), tokens.to_vec()))
                    .collect(),
            ))
        };
        let of = |said, saved: &[&str], head| tokens(said, saved, head).expect("fits");
        let plain = |tokens: &[u32]| Some(TokenIndices::Embedding(tokens.to_vec()));
        assert_eq!(of(None, &[], Role::TiedHead), plain(&[6, 7]));
        assert_eq!(of(plain(&[2, 7]), &[], Role::TiedHead), plain(&[2, 7, 6]));
        assert_eq!(
            of(None, &[], Role::Head),
            named(&[("embed_tokens", &[6, 7]), ("lm_head", &[6, 7])])
        );
        assert_eq!(
            of(plain(&[2]), &[], Role::Head),
            named(&[("embed_tokens", &[2, 6, 7]), ("lm_head", &[6, 7])])
        );
        let both = named(&[("lm_head", &[1])]);
        assert_eq!(
            of(both.clone(), &[], Role::Head),
            named(&[("lm_head", &[1, 6, 7]), ("embed_tokens", &[6, 7])])
        );
        assert_eq!(
            of(both, &[], Role::TiedHead),
            named(&[("lm_head", &[1, 6, 7]), ("embed_tokens", &[6, 7])])
        );
        assert_eq!(
            of(None, &["embed_tokens"], Role::Head),
            named(&[("lm_head", &[6, 7])])
        );
        assert_eq!(of(None, &["embed_tokens", "lm_head"], Role::TiedHead), None);
        assert!(
            tokens(None, &["lm_head"], Role::TiedHead).is_err(),
            "the embedding would lack them"
        );
    }

    #[test]
    fn matrices_of_a_table_have_no_rows_for_them() {
        let mut config = LoraConfig::all_linear(4, 8.0);
        config.targets = Targets {
            modules: Modules::Names(vec!["lm_head".to_owned()]),
            ..Targets::all_linear()
        };
        let error = config
            .add_token_rows(&BTreeSet::from([6]), &modules(Role::Head))
            .expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("`lm_head` has low-rank matrices"),
            "{error}"
        );
    }
}
