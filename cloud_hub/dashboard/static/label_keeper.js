// What a person labels, on its way to the hub: in small batches, again and again until the hub has
// said that it is kept. Nothing here knows what is on the page.
"use strict";

class LabelKeeper {
  static WAIT_MS = 250; // Labels given meanwhile go together.
  static RETRY_MS_MAX = 15000;
  static BATCH_MAX = 100;
  static BATCH_CHARS_MAX = 400000; // The hub takes bodies of 1 MiB.

  // told(answer): what the hub said; state("kept" | "waiting" | "lost", error): how it stands;
  // refused(digest, error): a label that the hub will not have.
  constructor(path, { told, state, refused }) {
    this.path = path;
    this.told = told;
    this.state = state;
    this.refused = refused;
    this.pending = new Map(); // Digest to {version, label}
    this.failures = 0;
    this.timer = 0;
    this.sending = null;
    addEventListener("pagehide", () => this.#sendLast());
    addEventListener("beforeunload", (event) => {
      if (this.pending.size) event.preventDefault();
    });
    addEventListener("online", () => this.#plan(0));
  }

  put(version, label) {
    this.pending.delete(label.digest); // Its place is now the last.
    this.pending.set(label.digest, { version, label });
    this.state("waiting");
    this.#plan(LabelKeeper.WAIT_MS);
  }

  // Returns once everything is kept. Throws what the hub said if it does not keep something now.
  async flush() {
    while (this.pending.size) {
      const before = this.failures;
      await this.#send();
      if (this.failures > before) throw this.error;
    }
  }

  #plan(delay) {
    clearTimeout(this.timer);
    if (this.pending.size) this.timer = setTimeout(() => this.#send(), delay);
  }

  #send() {
    this.sending ??= this.#sendBatch().finally(() => {
      this.sending = null;
      const retry = Math.min(LabelKeeper.RETRY_MS_MAX, 500 * 2 ** this.failures);
      this.#plan(this.failures ? retry : 0);
    });
    return this.sending;
  }

  #batch(most = LabelKeeper.BATCH_MAX) {
    const chosen = [];
    let chars = 0;
    let version = null;
    for (const entry of this.pending.values()) {
      version ??= entry.version;
      chars += JSON.stringify(entry.label).length;
      const isFull = chosen.length >= most || chars > LabelKeeper.BATCH_CHARS_MAX;
      if (entry.version !== version || (chosen.length && isFull)) break;
      chosen.push(entry);
    }
    return chosen;
  }

  async #sendBatch(most) {
    const batch = this.#batch(most);
    if (!batch.length) return;
    try {
      const answer = await LabelKeeper.ask(`${this.path}/label/draft`, this.#body(batch));
      this.failures = 0;
      this.#forget(batch);
      this.told(answer);
      this.state(this.pending.size ? "waiting" : "kept");
    } catch (error) {
      await this.#onRefusal(batch, error);
    }
  }

  async #onRefusal(batch, error) {
    const isWrong = [400, 404, 409, 413].includes(error.status);
    if (isWrong && batch.length > 1) return this.#sendBatch(1); // One of them is it.
    if (isWrong) {
      this.#forget(batch);
      this.refused(batch[0].label.digest, error);
      return;
    }
    this.failures += 1;
    this.error = error;
    this.state("lost", error);
  }

  // What a person has changed again meanwhile stays.
  #forget(batch) {
    for (const entry of batch) {
      if (this.pending.get(entry.label.digest) === entry) this.pending.delete(entry.label.digest);
    }
  }

  #body(batch) {
    return { version: batch[0].version, labels: batch.map(({ label }) => label) };
  }

  #sendLast() {
    const batch = this.#batch();
    if (!batch.length) return;
    fetch(`${this.path}/label/draft`, {
      method: "POST",
      keepalive: true, // Goes out though the page is gone
      headers: { "Content-Type": "application/json", "HX-Request": "true" },
      body: JSON.stringify(this.#body(batch)),
    }).catch(() => {});
  }

  // Returns the hub's answer; throws {message, remedy, status} (status 0: it does not answer).
  static async ask(address, body) {
    let answer;
    try {
      answer = await fetch(address, {
        method: body === undefined ? "GET" : "POST",
        headers: { "Content-Type": "application/json", "HX-Request": "true" },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw { status: 0, message: "The hub does not answer.", remedy: "" };
    }
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) return told;
    const isOut = answer.status === 401;
    throw {
      status: answer.status,
      code: told.code ?? "",
      message: isOut ? "You are logged out." : (told.message ?? `The hub answered ${answer.status}.`),
      remedy: isOut ? "Log in in another tab; what you labelled here waits." : (told.remedy ?? ""),
    };
  }
}
