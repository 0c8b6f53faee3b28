//! How kinds without a layout of their own are described: every field, by name.

use serde_json::Value;

use super::text::{Text, pairs, plain};

/// What stands at the head, or is of no use to people.
const SKIPPED: [&str; 5] = ["managedFields", "name", "namespace", "labels", "annotations"];

pub fn lay_out(text: &mut Text, object: &Value) {
    let metadata = &object["metadata"];
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| !SKIPPED.contains(&key.as_str()));
    }
    fields(text, &object, 0);
}

fn fields(text: &mut Text, object: &Value, depth: usize) {
    for (key, value) in pairs(object) {
        let title = title(key);
        match value {
            Value::Object(_) => {
                text.line(depth, format_args!("{title}:"));
                fields(text, value, depth + 1);
            }
            Value::Array(list) => {
                text.line(depth, format_args!("{title}:"));
                for item in list {
                    match item {
                        Value::Object(_) => fields(text, item, depth + 1),
                        other => text.line(depth + 1, shown(other)),
                    }
                }
            }
            other => text.field(depth, title, shown(other)),
        }
    }
}

/// A value in Go's `%v`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        other => plain(other),
    }
}

/// `resourceVersion` → `Resource Version`, `uid` → `UID`; what is no word stays as it is.
fn title(key: &str) -> String {
    if key.chars().any(|character| !character.is_alphabetic() && character != '-') {
        return key.to_owned();
    }
    let mut titles = Vec::new();
    let words = words(key);
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mut word = word.clone();
        // `PDF` and `Loader` belong together.
        let is_upper = word.chars().all(char::is_uppercase) && word.len() >= 2;
        if is_upper && words.peek().is_some_and(|next| next.starts_with(char::is_uppercase)) {
            word.extend(words.next().map(String::as_str));
        }
        if ["API", "URL", "UID", "GUID"].contains(&word.to_uppercase().as_str()) {
            word = word.to_uppercase();
        } else if word.to_lowercase() == word {
            let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            word = format!("{}{rest}", first.to_uppercase());
        }
        titles.push(word);
    }
    titles.join(" ")
}

/// The words of camel case; the last capital of a row of them begins the next word.
fn words(key: &str) -> Vec<String> {
    let class = |c: char| match c {
        c if c.is_lowercase() => 0,
        c if c.is_uppercase() => 1,
        _ => 2,
    };
    let characters: Vec<char> = key.chars().collect();
    let mut words: Vec<String> =
        characters.chunk_by(|a, b| class(*a) == class(*b)).map(String::from_iter).collect();
    for position in 1..words.len() {
        let is_row = words[position - 1].starts_with(char::is_uppercase);
        if is_row
            && words[position].starts_with(char::is_lowercase)
            && let Some(capital) = words[position - 1].pop()
        {
            words[position].insert(0, capital);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_titled_as_kubectl_does() {
        for (key, expected) in [
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("resourceVersion", "Resource Version"),
            ("podIP", "Pod IP"),
            ("podIPs", "Pod I Ps"),
            ("PDFLoader", "PDFLoader"),
            ("f:spec", "f:spec"),
            ("hugepages-2Mi", "hugepages-2Mi"),
            ("a-b", "A - B"),
            ("", ""),
        ] {
            assert_eq!(title(key), expected, "{key:?}");
        }
    }
}
