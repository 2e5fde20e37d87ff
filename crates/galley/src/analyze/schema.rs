//! What validation says about single objects (`IST0106`, `IST0130`, `IST0131`, `IST0133`).

use super::Report;
use super::context::Context;
use super::messages::{
    SCHEMA_VALIDATION_ERROR, SCHEMA_WARNING, VIRTUAL_SERVICE_INEFFECTIVE_MATCH,
    VIRTUAL_SERVICE_UNREACHABLE_RULE,
};
use crate::verdict::Finding;

pub(super) fn analyze(context: &Context<'_>, report: &mut Report) {
    for resource in context.everything() {
        let verdict = crate::validate(&resource.document.value);
        for problem in verdict.errors {
            report.add(&SCHEMA_VALIDATION_ERROR, resource, &problem.path, [problem.to_string().into()]);
        }
        for problem in verdict.warnings {
            let path = problem.path.as_str();
            match &problem.finding {
                Some(Finding::UnreachableRule { rule, reason }) => {
                    let values = [rule.into(), reason.into()];
                    report.add(&VIRTUAL_SERVICE_UNREACHABLE_RULE, resource, path, values);
                }
                Some(Finding::IneffectiveMatch { rule, condition, duplicate }) => {
                    let values = [rule.into(), condition.into(), duplicate.into()];
                    report.add(&VIRTUAL_SERVICE_INEFFECTIVE_MATCH, resource, path, values);
                }
                Some(Finding::UnknownField) | None => {
                    report.add(&SCHEMA_WARNING, resource, path, [problem.to_string().into()])
                }
            }
        }
    }
}
