// The view of the demo page: a phrase under the pointer shows its mask alone; selected words are sent to the model.
// `element` is the view, `trigger` sends an event to the server.
const view = () => element.querySelector(".plum-view");
let selection = null; // characters of the answer, as code points: Python counts in them

function activate(number) {
  const root = view();
  if (!root) return;
  if (number === null) root.removeAttribute("data-active");
  else root.setAttribute("data-active", number);
  for (const one of root.querySelectorAll("[data-phrase]"))
    one.classList.toggle("plum-active", one.dataset.phrase === number);
}

function phraseOf(target) {
  const one = target.closest ? target.closest("[data-phrase]") : null;
  return one ? one.dataset.phrase : null;
}

function readSelection() {
  const answer = element.querySelector(".plum-answer");
  const button = element.querySelector(".plum-segment");
  const selected = document.getSelection();
  if (!answer || !button || !selected || !selected.rangeCount) return;
  const range = selected.getRangeAt(0).cloneRange();
  if (!range.intersectsNode(answer)) return; // a click elsewhere keeps the selected words
  const whole = document.createRange();
  whole.selectNodeContents(answer);
  if (range.compareBoundaryPoints(Range.START_TO_START, whole) < 0) range.setStart(whole.startContainer, whole.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, whole) > 0) range.setEnd(whole.endContainer, whole.endOffset);
  const words = range.toString();
  if (words.trim()) {
    const before = document.createRange();
    before.setStart(whole.startContainer, whole.startOffset);
    before.setEnd(range.startContainer, range.startOffset);
    const start = Array.from(before.toString()).length;
    selection = { start: start, end: start + Array.from(words).length };
    button.textContent = "Segment “" + words.trim() + "”";
  } else {
    selection = null;
    button.textContent = button.dataset.idle;
  }
  button.classList.toggle("plum-ready", selection !== null);
}

element.addEventListener("mouseover", (event) => activate(phraseOf(event.target)));
element.addEventListener("mouseleave", () => activate(null));
element.addEventListener("focusin", (event) => activate(phraseOf(event.target)));
element.addEventListener("focusout", () => activate(null));
document.addEventListener("selectionchange", readSelection);
// Pressing the button must not clear the selection that it is about to send.
element.addEventListener("mousedown", (event) => {
  if (event.target.closest(".plum-button")) event.preventDefault();
});
element.addEventListener("click", (event) => {
  if (event.target.closest(".plum-segment")) {
    trigger("segment", selection || { start: 0, end: 0 });
    selection = null;
  } else if (event.target.closest(".plum-clear")) {
    trigger("own_phrases");
  }
});
