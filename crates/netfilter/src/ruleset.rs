//! A whole table of rules: applied in one step, read back, and shown in the syntax of `nft`.

use std::fmt;

use crate::rule::Rule;
use crate::{ChainType, Connection, Error, Hook, Priority, Transaction};

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name within the table.
    pub name: &'static str,
    /// Where packets enter by themselves; none where only other chains lead here.
    pub hook: Option<(ChainType, Hook, Priority)>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A table of family `inet`. Chains come before the chains that lead to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table's name.
    pub table: String,
    /// Its chains.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// Steps that replace the table, whatever it holds.
    pub fn transaction(&self) -> Transaction {
        let mut transaction = Transaction::new(&self.table);
        transaction.replace_table();
        for chain in &self.chains {
            match chain.hook {
                Some((kind, hook, priority)) => transaction.add_base_chain(chain.name, kind, hook, priority),
                None => transaction.add_chain(chain.name),
            };
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                transaction.add_rule(chain.name, rule);
            }
        }
        transaction
    }

    /// Replaces the table in the kernel.
    pub fn apply(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.commit(&self.transaction())
    }

    /// Reads the table back and compares it, rule by rule.
    pub fn verify(&self, connection: &mut Connection) -> Result<(), Error> {
        let found = connection.rules(&self.table)?;
        for chain in &self.chains {
            let there: Vec<_> = found.iter().filter(|rule| rule.chain == chain.name).collect();
            if there.len() != chain.rules.len() {
                return Err(Error::Verification(format!(
                    "chain `{}` of table `inet {}` has {} rules and should have {}: another program changes it",
                    chain.name,
                    self.table,
                    there.len(),
                    chain.rules.len()
                )));
            }
            for (index, (there, rule)) in there.iter().zip(&chain.rules).enumerate() {
                let expected = rule.expression_names();
                if there.expressions != expected {
                    return Err(Error::Verification(format!(
                        "rule {} of chain `{}` of table `inet {}` should be `{rule}` ({}) but is made of {}",
                        index + 1,
                        chain.name,
                        self.table,
                        expected.join(" "),
                        there.expressions.join(" ")
                    )));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "table inet {} {{", self.table)?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            writeln!(out, "\tchain {} {{", chain.name)?;
            if let Some((kind, hook, priority)) = chain.hook {
                let (kind, hook, priority) = (kind.keyword(), hook.keyword(), priority.0);
                writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
            }
            for rule in &chain.rules {
                writeln!(out, "\t\t{rule}")?;
            }
            writeln!(out, "\t}}")?;
        }
        writeln!(out, "}}")
    }
}
