//! HorizontalPodAutoscalers: bounds, targets, metrics, behaviour; in either version.
//!
//! It never looks at what is scaled. Source: `pkg/apis/autoscaling/validation`.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::rule::{choice, within};
use super::{metadata, name};
use crate::api::autoscaler;
use crate::model::quantity::Quantity;

type Errors = Vec<FieldError>;

const RESOURCE: &str = "horizontalpodautoscalers.autoscaling";
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
/// An hour, in seconds.
const LONGEST_WINDOW: i64 = 3600;
/// Half an hour, in seconds.
const LONGEST_PERIOD: i64 = 1800;

pub(super) fn create(autoscaler: &Value) -> Errors {
    let mut errors = metadata::create(autoscaler, metadata::rules(RESOURCE));
    errors.extend(spec(&in_v2(autoscaler)));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(spec(&in_v2(new)));
    errors
}

/// The rules are those of v2.
pub(super) fn in_v2(autoscaler: &Value) -> Value {
    match autoscaler["apiVersion"] == "autoscaling/v1" {
        true => autoscaler::to_v2(autoscaler.clone()),
        false => autoscaler.clone(),
    }
}

fn spec(autoscaler: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(autoscaler, "spec");
    let least = spec.child("minReplicas");
    let most = spec.child("maxReplicas");
    if least.number().is_some_and(|n| n < 1) {
        errors.push(least.invalid("must be greater than or equal to 1"));
    }
    let maximum = most.number().unwrap_or(0);
    if maximum < 1 {
        errors.push(most.invalid_value(&maximum.into(), "must be greater than 0"));
    }
    if least.number().is_some_and(|least| maximum < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(most.invalid_value(&maximum.into(), detail));
    }
    reference(&spec.child("scaleTargetRef"), &mut errors);
    for metric in spec.child("metrics").items() {
        self::metric(&metric, &mut errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        rules(&spec.child("behavior").child(direction), &mut errors);
    }
    errors
}

fn reference(target: &Place<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        let place = target.child(field);
        match place.text() {
            "" => errors.push(place.required()),
            text => errors.extend(place.complain(name::path_segment(text))),
        }
    }
}

fn metric(metric: &Place<'_>, errors: &mut Errors) {
    let kind = metric.child("type");
    if kind.text().is_empty() {
        errors.push(kind.required_because("must specify a metric source type"));
        return;
    }
    let Some((_, wanted)) = SOURCES.iter().find(|(name, _)| *name == kind.text()) else {
        let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        errors.push(kind.not_supported(&names));
        return;
    };
    for (_, field) in SOURCES {
        let source = metric.child(field);
        if field != wanted {
            if source.is_set() {
                errors.push(source.forbidden("must populate the given metric source only"));
            }
        } else if !source.is_set() {
            let detail = "must populate information for the given metric source";
            errors.push(source.required_because(detail));
        } else {
            self::source(&source, wanted, errors);
        }
    }
}

fn source(source: &Place<'_>, kind: &str, errors: &mut Errors) {
    match kind {
        "resource" | "containerResource" => {
            let called = source.child("name");
            if called.text().is_empty() {
                errors.push(called.required_because("must specify a resource name"));
            }
            if kind == "containerResource" && source.child("container").text().is_empty() {
                let detail = "must specify a container";
                errors.push(source.child("container").required_because(detail));
            }
            let target = source.child("target");
            let share = target.child("averageUtilization");
            let value = target.child("averageValue");
            match (share.is_set(), value.is_filled()) {
                (false, false) => errors.push(share.required_because(
                    "must set either a target raw value or a target utilization",
                )),
                (true, true) => errors.push(
                    value.forbidden("may not set both a target raw value and a target utilization"),
                ),
                _ => {}
            }
        }
        _ => {
            let metric = source.child("metric");
            let called = metric.child("name");
            match called.text() {
                "" => errors.push(called.required_because("must specify a metric name")),
                text => errors.extend(called.complain(name::path_segment(text))),
            }
            if kind == "object" {
                reference(&source.child("describedObject"), errors);
            }
            let target = source.child("target");
            let average = target.child("averageValue");
            let value = target.child("value");
            if kind == "pods" && !average.is_filled() {
                let detail = "must specify a positive target averageValue";
                errors.push(average.required_because(detail));
            } else if !average.is_filled() && !value.is_filled() {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.push(average.required_because(detail));
            }
        }
    }
    let target = source.child("target");
    choice(&target.child("type"), &["AverageValue", "Utilization", "Value"], errors);
    let share = target.child("averageUtilization");
    if share.number().is_some_and(|percent| percent < 1) {
        errors.push(share.invalid("must be greater than 0"));
    }
    for field in ["averageValue", "value"] {
        let place = target.child(field);
        let is_positive = Quantity::from_json(place.value)
            .is_ok_and(|quantity| !quantity.is_zero() && !place.text().starts_with('-'));
        if place.is_filled() && !is_positive {
            errors.push(place.invalid("must be positive"));
        }
    }
}

fn rules(rules: &Place<'_>, errors: &mut Errors) {
    if !rules.is_set() {
        return;
    }
    let window = rules.child("stabilizationWindowSeconds");
    if window.number().is_some_and(|seconds| seconds < 0) {
        errors.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.number().is_some_and(|seconds| seconds > LONGEST_WINDOW) {
        errors.push(window.invalid("must be less than or equal to 3600"));
    }
    let tolerance = rules.child("tolerance");
    let is_negative = Quantity::from_json(tolerance.value).is_ok_and(Quantity::is_negative);
    if tolerance.is_filled() && is_negative {
        errors.push(tolerance.invalid("must be greater or equal to zero"));
    }
    let select = rules.child("selectPolicy");
    if select.is_filled() {
        choice(&select, &["Disabled", "Max", "Min"], errors);
    }
    let policies = rules.child("policies");
    if !policies.is_filled() {
        errors.push(policies.required_because("must specify at least one Policy"));
    }
    for policy in policies.items() {
        choice(&policy.child("type"), &["Percent", "Pods"], errors);
        let value = policy.child("value");
        if value.number().unwrap_or(0) <= 0 {
            errors.push(value.invalid("must be greater than zero"));
        }
        within(&policy.child("periodSeconds"), 1, LONGEST_PERIOD, errors);
    }
}
