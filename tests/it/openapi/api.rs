//! The OpenAPI document as the tests read it: which answers it promises, and whether an answer is as it says.

use super::ask::Answer;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// A form of answer: a media type, the type of a problem, or nothing.
pub type Form = (u16, String);

pub struct Api {
    pub document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

#[derive(Clone)]
pub struct Operation {
    pub id: String,
    pub method: String,
    pub path: String,
    pub needs: String,
    pub described: Value,
}

impl Api {
    pub fn new(document: Value) -> Self {
        Self { document, validators: Mutex::default() }
    }

    pub fn operations(&self) -> Vec<Operation> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut operations = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, described) in item.as_object().unwrap() {
                operations.push(Operation {
                    id: text(&described["operationId"]),
                    method: method.to_uppercase(),
                    path: path.clone(),
                    needs: text(&described["x-needs"]),
                    described: described.clone(),
                });
            }
        }
        operations
    }

    /// Holds an answer that is documented against what the document says of it.
    pub fn hold(&self, operation: &Operation, answer: &Answer, shown: &str) {
        let said = &operation.described["responses"][answer.status.to_string()];
        for name in said["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(answer.headers.contains_key(name), "{shown}: no {name} in {:?}", answer.headers);
        }
        let media = answer.media();
        let said = &said["content"][&media];
        let items = match media.as_str() {
            "" => Vec::new(),
            "application/x-ndjson" => answer.lines(),
            "text/event-stream" => answer.events(),
            json if json.ends_with("json") => return self.valid(&said["schema"], &answer.json(), shown),
            _ => {
                assert!(!answer.text.is_empty(), "{shown}: nothing in it");
                return;
            }
        };
        for item in items {
            self.valid(&said["x-item-schema"], &item, shown);
        }
    }

    fn valid(&self, schema: &Value, value: &Value, shown: &str) {
        let validator = self.validator(schema);
        let faults: Vec<String> = validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(faults.is_empty(), "{shown}: not as documented: {faults:#?}\n{value:#}");
    }

    pub fn validator(&self, schema: &Value) -> Arc<Validator> {
        assert!(schema.is_object(), "there is no schema");
        let mut validators = self.validators.lock().unwrap();
        let known = validators.entry(schema.to_string()).or_insert_with(|| {
            // References lead into the document's components, so they stand beside the schema.
            let root = json!({"allOf": [schema], "components": self.document["components"]});
            let options = jsonschema::draft202012::options().offline().should_validate_formats(true);
            Arc::new(options.build(&root).unwrap_or_else(|error| panic!("{schema}: {error}")))
        });
        known.clone()
    }

    /// Every place that refers to another: where it stands, and where it leads.
    pub fn references(&self) -> Vec<(String, String)> {
        fn walk(value: &Value, at: &str, out: &mut Vec<(String, String)>) {
            match value {
                Value::Object(members) => {
                    for (name, inner) in members {
                        let leads = name == "$ref" || at.ends_with("/mapping");
                        match inner.as_str().filter(|_| leads) {
                            Some(target) => out.push((at.to_owned(), target.to_owned())),
                            None => walk(inner, &format!("{at}/{name}"), out),
                        }
                    }
                }
                Value::Array(members) => members.iter().enumerate().for_each(|(nth, inner)| walk(inner, &format!("{at}/{nth}"), out)),
                _ => {}
            }
        }
        let mut out = Vec::new();
        walk(&self.document, "", &mut out);
        out
    }
}

impl Operation {
    /// Every form of answer that is documented.
    pub fn forms(&self) -> BTreeSet<Form> {
        let mut forms = BTreeSet::new();
        for (status, said) in self.described["responses"].as_object().unwrap() {
            let status: u16 = status.parse().unwrap();
            let content: BTreeMap<String, Value> = serde_json::from_value(said["content"].clone()).unwrap_or_default();
            if content.is_empty() {
                forms.insert((status, String::new()));
            }
            for (media, said) in content {
                if media != "application/problem+json" {
                    forms.insert((status, media));
                    continue;
                }
                let kinds = said.pointer("/schema/allOf/1/properties/type/enum").and_then(Value::as_array).unwrap();
                forms.extend(kinds.iter().map(|kind| (status, kind.as_str().unwrap().to_owned())));
            }
        }
        forms
    }

    pub fn lists(&self, status: u16, form: &str) -> bool {
        self.forms().contains(&(status, form.to_owned()))
    }

    /// Names of the parameters in `path`, `query` or `header`.
    pub fn parameters(&self, place: &str) -> Vec<String> {
        let all = self.described["parameters"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|one| one["in"] == place).map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The body that the document gives as an example.
    pub fn example(&self) -> Option<Value> {
        self.described.pointer("/requestBody/content/application~1json/example").cloned()
    }
}
