// Mathematics, a copy button on every block of code, and the keyboard for whatever scrolls. Nothing is fetched.
(() => {
  if (window.katex) for (const el of document.querySelectorAll('span.math, div.math')) {
    const tex = el.textContent;
    try { katex.render(tex, el, {displayMode: el.tagName === 'DIV', output: 'htmlAndMathml', strict: false, macros: {'‖': '\\Vert'}}); el.dataset.rendered = ''; }
    catch (error) { el.textContent = tex; el.title = error.message; el.dataset.error = ''; console.error('mathematics: ' + error.message); }
  }
  for (const block of document.querySelectorAll('article div[class*="highlight-"]')) {
    const pre = block.querySelector('pre');
    if (!pre || block.matches('.highlight-output') || !navigator.clipboard) continue;
    const button = document.createElement('button');
    button.className = 'copy'; button.type = 'button'; button.textContent = 'copy';
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = 'copied';
      setTimeout(() => { button.textContent = 'copy'; }, 1500);
    });
    block.append(button);
  }
  // What is wider than its box scrolls: it has to be reached without a mouse, and only while it does scroll.
  const boxes = 'pre, .shown, .math, figure.picture, .table-wrapper, div.output, .katex-display, article p:has(> img)';
  const reach = () => {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== 'visible';
      box.toggleAttribute('data-more', scrolls && box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
      if (scrolls) box.tabIndex = 0; else if (box.getAttribute('tabindex') === '0') box.removeAttribute('tabindex');
    }
  };
  reach();
  addEventListener('resize', reach);
  document.addEventListener('toggle', reach, true);
  document.addEventListener('scrollend', reach, true);
})();
