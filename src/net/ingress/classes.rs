//! Whose an Ingress is: ours, another controller's, or nobody's.

/// What IngressClasses name to be served by us.
pub const CONTROLLER: &str = "joey.dev/ingress";
/// The class that exists by itself.
pub const OWN_CLASS: &str = "joey";
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// What Ingresses said before they had a class field; controllers still honour it.
pub const OLD_ANNOTATION: &str = "kubernetes.io/ingress.class";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassFact {
    pub name: String,
    pub controller: String,
    pub is_default: bool,
    /// Seconds since 1970.
    pub created: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    Ours,
    /// Another controller's: not a word about it.
    Foreign,
    /// Nobody's, and why. The text is for an Event.
    Nobody(String),
}

/// `named` is the class that the Ingress names by field or old annotation.
pub fn claim(named: Option<&str>, classes: &[ClassFact]) -> Claim {
    let class = match named {
        Some(name) => {
            let Some(class) = classes.iter().find(|class| class.name == name) else {
                return Claim::Nobody(format!(
                    "there is no IngressClass {name:?}, so nobody serves this Ingress; create one with \
                     spec.controller {CONTROLLER}, or use class {OWN_CLASS:?}"
                ));
            };
            class
        }
        None => {
            // As the API's admission chooses among several: the youngest, then the first by name.
            let defaults = classes.iter().filter(|class| class.is_default);
            let youngest =
                defaults.min_by(|a, b| (-a.created, &a.name).cmp(&(-b.created, &b.name)));
            let Some(class) = youngest else {
                return Claim::Nobody(
                    "it names no class, and no IngressClass is the default, so nobody serves this Ingress"
                        .to_owned(),
                );
            };
            class
        }
    };
    match class.controller == CONTROLLER {
        true => Claim::Ours,
        false => Claim::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, controller: &str, is_default: bool, created: i64) -> ClassFact {
        let (name, controller) = (name.to_owned(), controller.to_owned());
        ClassFact { name, controller, is_default, created }
    }

    #[test]
    fn an_ingress_is_served_by_the_controller_of_its_class() {
        let classes = [
            class("joey", CONTROLLER, true, 0),
            class("kangaroo", CONTROLLER, false, 1),
            class("contour", "projectcontour.io/ingress-controller", false, 2),
        ];
        assert_eq!(claim(None, &classes), Claim::Ours);
        assert_eq!(claim(Some("kangaroo"), &classes), Claim::Ours);
        assert_eq!(claim(Some("contour"), &classes), Claim::Foreign);
        let Claim::Nobody(why) = claim(Some("nginx"), &classes) else { panic!("nobody's") };
        assert!(why.contains("no IngressClass \"nginx\"") && why.contains(CONTROLLER), "{why}");
    }

    #[test]
    fn the_youngest_default_class_counts() {
        let ours = class("joey", CONTROLLER, true, 5);
        let theirs = class("other", "example.com/other", true, 9);
        assert_eq!(claim(None, &[ours.clone(), theirs.clone()]), Claim::Foreign);
        assert_eq!(claim(None, &[ours, ClassFact { created: 1, ..theirs }]), Claim::Ours);
        assert!(matches!(claim(None, &[]), Claim::Nobody(_)));
    }
}
